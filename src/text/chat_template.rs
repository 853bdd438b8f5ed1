//! [`ChatTemplate`]: the model's own Jinja template, which writes a conversation as the model was trained to read it.
//!
//! A template comes with a model and is a program, so it runs bounded: it sees the messages and nothing else, can include
//! no other file, and stops after a fixed amount of work and of output. What these two do not bound (one filter may work for ever,
//! memory, the depth of lists in lists) is bounded from outside: `src/confined.rs`.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::merge_maps;
use minijinja::{Environment, ErrorKind, Value, context};

use super::message::{Message, TemplateInputs};
use super::template_check;
use super::template_functions::{self, RAISED};
use super::template_rewrite;
use crate::confined::{Confinement, Limits, Stopped, confined};
use crate::formats::{TextSource, TokenizerSource};
use crate::{Error, Result};

/// Instructions that one rendering may take. A conversation of 1000 turns takes about 50 000.
const FUEL: u64 = 3_000_000;
/// Bytes that one rendering may write, besides four times the messages.
const MAX_OUTPUT: usize = 16 << 20;
/// Bytes that one rendering may hold at a time, besides [`MEMORY_A_BYTE`] for each of the messages.
const MAX_MEMORY: usize = 256 << 20;
const MEMORY_A_BYTE: usize = 64;
/// How long compiling and one rendering may take, besides a second for each [`BYTES_A_SECOND`] of the messages. A conversation takes
/// a millisecond; the machine may be busy.
const SECONDS: u64 = 5;
const BYTES_A_SECOND: usize = 1 << 20;
const NAME: &str = "chat_template";

/// A compiled chat template with the model's special tokens.
pub struct ChatTemplate {
    program: Arc<Program>,
    confinement: Confinement,
}

/// The template itself, to be run confined.
struct Program {
    environment: Environment<'static>,
    origin: String,
    source: String,
    /// `bos_token` and the like, by name.
    tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// The template that the model's files hold, if any.
    ///
    /// # Errors
    /// A syntax error, with origin and line.
    pub fn from_source(source: &TextSource) -> Result<Option<Self>> {
        Self::from_source_at(source, now())
    }

    /// As [`Self::from_source`], with the time that `strftime_now` gives, in seconds since 1970.
    ///
    /// # Errors
    /// As [`Self::from_source`].
    pub fn from_source_at(source: &TextSource, now: i64) -> Result<Option<Self>> {
        let Some(template) = &source.chat_template else {
            return Ok(None);
        };
        let origin = match &source.tokenizer {
            TokenizerSource::Json(path) => {
                let file = path.with_file_name("chat_template.jinja");
                let file = if file.is_file() { file } else { path.with_file_name("tokenizer_config.json") };
                file.display().to_string()
            }
            TokenizerSource::Gguf(_) => "tokenizer.chat_template in the GGUF file".to_string(),
        };
        let token = |text: &Option<String>, id: Option<u32>| {
            text.clone().or_else(|| match &source.tokenizer {
                TokenizerSource::Gguf(gguf) => gguf.tokens.get(id? as usize).cloned(),
                TokenizerSource::Json(_) => None,
            })
        };
        let bos_token = token(&source.bos_token, source.bos_token_id);
        let eos_token = token(&source.eos_token, source.eos_token_ids.first().copied());
        let others = source.named_tokens.iter().filter(|(name, _)| !matches!(name.as_str(), "bos_token" | "eos_token"));
        let tokens = bos_and_eos(bos_token, eos_token).chain(others.cloned()).collect();
        Self::compile_with(&origin, template, tokens, now).map(Some)
    }

    /// Compiles `template`. `origin` is what messages call it.
    ///
    /// `strftime_now` gives the moment of this call in UTC, or the one of the variable `SOURCE_DATE_EPOCH` (seconds since
    /// 1970), so that a template which prints the date can be rendered the same tomorrow.
    pub fn compile(origin: &str, template: &str, bos_token: Option<String>, eos_token: Option<String>) -> Result<Self> {
        Self::compile_at(origin, template, bos_token, eos_token, now())
    }

    /// As [`Self::compile`], with the time that `strftime_now` gives, in seconds since 1970.
    pub fn compile_at(
        origin: &str,
        template: &str,
        bos_token: Option<String>,
        eos_token: Option<String>,
        now: i64,
    ) -> Result<Self> {
        Self::compile_with(origin, template, bos_and_eos(bos_token, eos_token).collect(), now)
    }

    /// `tokens`: `bos_token` and the like, by name.
    fn compile_with(origin: &str, template: &str, tokens: Vec<(String, String)>, now: i64) -> Result<Self> {
        let limits = Limits::new(SECONDS, template.len(), BYTES_A_SECOND, MAX_MEMORY);
        let (place, template) = (origin.to_string(), template.to_string());
        let compile = move || Program::compile(place, &template, tokens, now);
        let program = confined(limits, compile).map_err(|stopped| unsound(origin, &stopped))??;
        Ok(Self { program: Arc::new(program), confinement: Confinement::default() })
    }

    /// The text of `messages`; with `add_generation_prompt` it ends where the assistant's next turn begins.
    ///
    /// The text holds all special tokens, BOS among them: encode it with `add_special = false`.
    ///
    /// # Errors
    /// The template fails or refuses the messages (many want user and assistant to take turns), or does not end.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, &TemplateInputs::default(), add_generation_prompt)
    }

    /// As [`Self::render`], with what a record gives the template beside its messages.
    pub fn render_with(&self, messages: &[Message], inputs: &TemplateInputs, add_generation_prompt: bool) -> Result<String> {
        let given = size(messages, inputs);
        let memory = MAX_MEMORY.saturating_add(given.saturating_mul(MEMORY_A_BYTE));
        let limits = Limits::new(SECONDS, given, BYTES_A_SECOND, memory);
        let (program, messages, inputs) = (Arc::clone(&self.program), messages.to_vec(), inputs.clone());
        let rendered = self.confinement.run(limits, move || program.render(&messages, &inputs, add_generation_prompt));
        rendered.map_err(|stopped| unsound(self.origin(), &stopped))?
    }

    /// The error of every further [`Self::render`], once the template has exceeded a bound.
    pub(crate) fn stopped(&self) -> Option<Error> {
        self.confinement.stopped().map(|stopped| unsound(self.origin(), stopped))
    }

    /// The template as the file has it.
    pub fn source(&self) -> &str {
        &self.program.source
    }

    /// Where the template comes from, as messages name it.
    pub fn origin(&self) -> &str {
        &self.program.origin
    }
}

impl Program {
    fn compile(origin: String, template: &str, tokens: Vec<(String, String)>, now: i64) -> Result<Self> {
        if let Some(problem) = template_check::namespace_as_value(template) {
            return Err(unsound(&origin, &Stopped::Panic(problem)));
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        // A template that could import itself would get at its own namespaces as values, past the check above.
        environment.set_path_join_callback(|_, _| Cow::Borrowed("other templates cannot be used"));
        template_functions::install(&mut environment, now);
        let rewritten = template_rewrite::rewritten(template).map_err(|problem| unsound(&origin, &Stopped::Panic(problem)))?;
        let added = environment.add_template_owned(NAME, rewritten);
        added.map_err(|cause| refused(&origin, &cause))?;
        Ok(Self { environment, origin, source: template.to_string(), tokens })
    }

    fn render(&self, messages: &[Message], inputs: &TemplateInputs, add_generation_prompt: bool) -> Result<String> {
        // Python passes the optional parts as None, and leaves tokens that the model lacks undefined.
        let tokens: Value = self.tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token))).collect();
        let context = context! {
            messages => Value::from_serialize(messages), add_generation_prompt,
            tools => Value::from_serialize(&inputs.tools), documents => (),
            ..merge_maps([Value::from_serialize(&inputs.more), tokens])
        };
        let mut output =
            Bounded { most: MAX_OUTPUT.saturating_add(size(messages, inputs).saturating_mul(4)), ..Bounded::default() };
        let template = self.environment.get_template(NAME).map_err(|cause| refused(&self.origin, &cause))?;
        let rendered = template.render_captured_to(context, &mut output).map(|_| ());
        rendered.map_err(|cause| {
            if output.overflow {
                let problem = format!("the chat template writes more than {} MiB and was stopped", output.most >> 20);
                return Error::bad_input(&self.origin, problem, PROPOSAL);
            }
            refused(&self.origin, &cause)
        })?;
        String::from_utf8(output.bytes)
            .map_err(|_| Error::bad_input(&self.origin, "the chat template does not give UTF-8", PROPOSAL))
    }
}

/// Those of the two tokens that the model has, by name.
fn bos_and_eos(bos_token: Option<String>, eos_token: Option<String>) -> impl Iterator<Item = (String, String)> {
    let tokens = [("bos_token", bos_token), ("eos_token", eos_token)];
    tokens.into_iter().filter_map(|(name, token)| Some((name.to_string(), token?)))
}

/// The time that `SOURCE_DATE_EPOCH` fixes, or that it is, in seconds since 1970.
pub(crate) fn now() -> i64 {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.trim().parse().ok());
    fixed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64))
}

/// Bytes of what a template is given, about.
fn size(messages: &[Message], inputs: &TemplateInputs) -> usize {
    messages.iter().map(Message::size).sum::<usize>() + inputs.size()
}

const PROPOSAL: &str = "check the messages against what the template accepts; the template itself comes with the model";

/// A template that exceeds a bound, or over which the engine stumbles, or would.
fn unsound(origin: &str, stopped: &Stopped) -> Error {
    match stopped {
        Stopped::Panic(problem) => Error::bad_input(origin, format!("the chat template cannot be used: {problem}"), PROPOSAL),
        _ => {
            let proposal = "the template comes with the model: use a model whose source you trust";
            Error::bad_input(origin, format!("the chat template {stopped}"), proposal)
        }
    }
}

/// An error of the template, with origin and line.
fn refused(origin: &str, cause: &minijinja::Error) -> Error {
    let place = match cause.line() {
        Some(line) => format!("{origin}, line {line}"),
        None => origin.to_string(),
    };
    let detail = cause.detail().unwrap_or_default();
    let problem = match cause.kind() {
        ErrorKind::OutOfFuel => "the chat template does not come to an end and was stopped".to_string(),
        ErrorKind::SyntaxError => format!("the chat template has a syntax error: {detail}"),
        _ => match detail.strip_prefix(RAISED) {
            Some(message) => format!("the chat template refuses these messages: {message}"),
            None if detail.is_empty() => format!("the chat template fails: {}", cause.kind()),
            None => format!("the chat template fails: {}: {detail}", cause.kind()),
        },
    };
    Error::bad_input(place, problem, PROPOSAL)
}

/// A buffer that refuses to grow beyond `most` bytes.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
    overflow: bool,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if piece.len() > self.most - self.bytes.len() {
            self.overflow = true;
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
