//! Text to token ids and back, and conversations to text.
//!
//! * [`tokenizer`]: [`Tokenizer`], from a `tokenizer.json` or from GGUF metadata;
//! * [`gguf_vocabulary`]: how GGUF metadata becomes a tokenizer, for byte-level BPE and for SentencePiece;
//! * [`pre_tokenizer`]: the named rules that cut text into words before byte-level BPE;
//! * [`marks`]: which tokens are marks by their looks, and the guard against marks that become text;
//! * [`literal`]: text in which what looks like a special token stays text;
//! * [`decode_stream`]: text from ids as they arrive, in whole characters;
//! * [`chat_template`]: the model's own Jinja template, from [`Message`]s to the text that the model was trained on;
//! * [`message`]: a turn of a conversation, and what else a template is given;
//! * [`template_functions`]: what Hugging Face templates may call beside plain Jinja; `template_rewrite`, `template_meaning` and
//!   `template_check` look at a template's source before it is compiled.

pub mod chat_template;
pub mod decode_stream;
pub mod gguf_vocabulary;
pub mod literal;
pub mod marks;
pub mod message;
pub mod pre_tokenizer;
mod python_containers;
mod python_values;
mod string_methods;
mod template_check;
mod template_filters;
pub mod template_functions;
mod template_meaning;
mod template_rewrite;
mod template_tokens;
pub mod tokenizer;

pub use chat_template::ChatTemplate;
pub use decode_stream::DecodeStream;
pub use message::{Empty, Message, TemplateInputs};
pub use tokenizer::{Encoded, Tokenizer};
