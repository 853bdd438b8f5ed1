//! The folder where graftling keeps what it can make or fetch again: downloaded models and figures measured on this machine.

use std::path::PathBuf;

/// `%LOCALAPPDATA%\graftling` on Windows, `~/Library/Caches/graftling` on macOS, else `$XDG_CACHE_HOME/graftling` or
/// `~/.cache/graftling`. `None` where none of these variables is set. The folder need not exist yet.
pub fn cache_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let parent = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else {
        // The XDG rules say that a relative path there is to be ignored.
        variable("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    parent.map(|parent| parent.join("graftling"))
}
