//! `SHA256SUMS`: the digest of each file of a folder, as `sha256sum` writes and checks them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::plain;
use crate::Result;
use crate::formats::atomic;

/// The file's name.
pub const SUMS: &str = "SHA256SUMS";
/// More bytes than the digests of a checkpoint take.
const MOST_BYTES: u64 = 1 << 16;

/// SHA-256 of a regular file's content, in hexadecimal.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub fn of_file(path: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut chunk) = (plain::open(path)?, Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            read => hash.update(&chunk[..read]),
        }
    }
}

/// SHA-256 of bytes, in hexadecimal.
pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the digests of `files` beside them.
///
/// # Errors
/// Failed: a file cannot be read, or the digests cannot be written.
pub fn write(folder: &Path, files: &[&str]) -> Result<()> {
    let path = folder.join(SUMS);
    let line = |name: &&str| of_file(&folder.join(name)).map(|digest| format!("{digest}  {name}\n"));
    let text: String = files.iter().map(line).collect::<io::Result<_>>().map_err(|error| {
        crate::Error::failed(path.display(), format!("cannot be made: {error}"), "check disk space and permissions")
    })?;
    atomic::write_atomically(&path, text.as_bytes())
}

/// The digests that a folder states, by file.
///
/// # Errors
/// What is wrong with the list.
pub fn read(folder: &Path) -> std::result::Result<BTreeMap<String, String>, String> {
    let bytes = plain::read(&folder.join(SUMS), MOST_BYTES).map_err(|error| format!("{SUMS} cannot be read: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let pair = |line: &str| line.split_once("  ").map(|(digest, name)| (name.to_string(), digest.to_string()));
    text.lines().map(pair).collect::<Option<_>>().ok_or_else(|| format!("{SUMS} is damaged"))
}

/// That each of `files` is as it was written.
///
/// # Errors
/// What is not: a file is missing, has no digest, or has another one.
pub fn verify(folder: &Path, files: &[&str]) -> std::result::Result<(), String> {
    let stated = read(folder)?;
    for &name in files {
        let found = of_file(&folder.join(name)).map_err(|error| format!("{name} cannot be read: {error}"))?;
        match stated.get(name) {
            None => return Err(format!("{SUMS} has no digest of {name}")),
            Some(stated) if *stated != found => return Err(format!("{name} is damaged: its digest is not that of {SUMS}")),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Before the digest of the text above it, in a comment of XML.
const SIGNATURE: &str = "<!-- written by graftling; sha256 of the above: ";
/// A picture takes some hundred kilobytes.
const MOST_SIGNED_BYTES: u64 = 16 << 20;

/// An XML text with a last line by which [`is_signed`] knows it.
pub fn signed(text: &str) -> String {
    format!("{text}{SIGNATURE}{} -->\n", of_bytes(text.as_bytes()))
}

/// Whether a file holds what [`signed`] has made, unchanged.
pub fn is_signed(path: &Path) -> bool {
    let Ok(text) = plain::read(path, MOST_SIGNED_BYTES).map(|bytes| String::from_utf8(bytes).unwrap_or_default()) else {
        return false;
    };
    text.rsplit_once(SIGNATURE).is_some_and(|(above, _)| signed(above) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_known_until_it_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.svg");
        let known = |text: &str| {
            std::fs::write(&path, text).unwrap();
            is_signed(&path)
        };
        let text = signed("<svg/>\n");
        assert!(known(&text));
        for other in
            [text.replace("<svg/>", "<svg />"), text[1..].to_string(), format!("{text}\n"), "<svg/>\n".into(), String::new()]
        {
            assert!(!known(&other), "{other}");
        }
    }

    #[test]
    fn any_change_of_any_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b"];
        std::fs::write(folder.path().join("a"), "abc").unwrap();
        std::fs::write(folder.path().join("b"), "").unwrap();
        write(folder.path(), &files).unwrap();
        // The test vector of FIPS 180-2.
        assert_eq!(read(folder.path()).unwrap()["a"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(verify(folder.path(), &files), Ok(()));
        std::fs::write(folder.path().join("a"), "abd").unwrap();
        assert!(verify(folder.path(), &files).unwrap_err().starts_with("a is damaged"));
        assert_eq!(verify(folder.path(), &["b", "c"]).unwrap_err().split(' ').next(), Some("c"));
        std::fs::write(folder.path().join(SUMS), "").unwrap();
        assert!(verify(folder.path(), &["b"]).unwrap_err().contains("no digest of b"));
    }
}
