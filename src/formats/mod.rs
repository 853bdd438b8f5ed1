//! Model files and adapter files, read and written.
//!
//! * [`text_source`]: what the readers hand to `text/`.

pub mod text_source;

pub use text_source::{GgufTokenizer, TextSource, TokenizerSource};
