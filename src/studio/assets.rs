//! The page's files, which are a part of the program.

use std::borrow::Cow;

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "src/studio/page/"]
struct Page;

/// A file of the page.
pub struct Asset {
    pub content: Cow<'static, [u8]>,
    /// As the header `Content-Type` has it.
    pub media_type: &'static str,
}

/// The file at this path of the address, `/` being `index.html`.
pub fn asset(path: &str) -> Option<Asset> {
    let path = match path.trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    let media_type = match path.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        _ => return None,
    };
    Some(Asset { content: Page::get(path)?.data, media_type })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_in_the_program_and_nothing_else_is() {
        assert!(asset("/").is_some_and(|page| page.media_type.starts_with("text/html") && !page.content.is_empty()));
        for path in ["/../mod.rs", "/..%2fmod.rs", "//etc/passwd", "/nothing.html", "/index"] {
            assert!(asset(path).is_none(), "{path}");
        }
    }
}
