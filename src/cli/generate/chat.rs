//! `graftling generate --chat` without a message: a conversation in the terminal, or a line a turn from standard input.
//!
//! The model's cache keeps what it has read, so that a turn costs its own tokens only. Ctrl-C ends an answer; what was said of it stays.

use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use graftling::adapter::{DeviceAdapter, Method, Piece};
use graftling::data::conversation::encode_prompt;
use graftling::generate::{Generation, Generator, Sampler, end_tokens};
use graftling::session::{OpenModel, Session};
use graftling::terminal;
use graftling::text::Message;
use graftling::{Error, Result};

use super::chat_template;

/// Tokens of a conversation that are kept in the cache, if the model can tell so many apart.
const CONTEXT: usize = 4096;

const HELP: &str = "\
/reset              forget the conversation
/system TEXT        begin it with this instruction (and forget what was said)
/adapter on|off|W   use the adapter, do without it, or multiply it by W
/help               this
/quit               leave (as Ctrl-D does); Ctrl-C ends an answer";

/// What the command line says.
pub(super) struct Settings<'a> {
    pub adapters: &'a crate::cli::AdapterArgs,
    pub max_new_tokens: usize,
    pub device: &'a crate::cli::DeviceArgs,
}

/// Runs the conversation until the input ends.
///
/// # Errors
/// Bad input in model or adapter; the GPU failed; standard output cannot be written.
pub(super) fn run(model: &OpenModel, settings: &Settings, sampler: &mut Sampler) -> Result<()> {
    chat_template(model)?;
    let context = CONTEXT.min(model.files.config.context());
    let used = Generation { context };
    let session = settings.device.session(model, settings.adapters, &[&used])?;
    let ends =
        end_tokens(&model.tokenizer, model.template.as_ref(), settings.adapters.folders.first().map(PathBuf::as_path), true)?;
    let mut talk = Talk {
        model,
        generator: Generator::of(&session, used)?,
        // What Ctrl-C sets.
        stop: on_interrupt()?,
        session,
        messages: Vec::new(),
        whole: None,
        ends,
        context,
        max_new_tokens: settings.max_new_tokens.min(context.saturating_sub(1)),
    };
    let by_hand = std::io::stdin().is_terminal();
    if by_hand {
        terminal::say("A conversation: /help lists commands, Ctrl-D leaves.");
    }
    let mut lines = std::io::stdin().lock();
    loop {
        if by_hand {
            crate::cli::print("> ")?;
        }
        let mut line = String::new();
        let read = lines.read_line(&mut line).map_err(|error| {
            Error::bad_input("standard input", format!("cannot be read: {error}"), "Give one message a line, as UTF-8 text.")
        })?;
        let line = line.trim();
        match line {
            _ if read == 0 => return Ok(()),
            "/quit" | "/exit" => return Ok(()),
            "" => {}
            _ => match line.strip_prefix('/') {
                Some(command) => talk.command(command)?,
                None => talk.turn(line, sampler)?,
            },
        }
    }
}

/// A conversation.
struct Talk<'a> {
    model: &'a OpenModel,
    session: Session,
    generator: Generator,
    messages: Vec<Message>,
    /// The adapter's numbers at weight 1, once another weight was asked for.
    whole: Option<Vec<f32>>,
    ends: Vec<u32>,
    context: usize,
    max_new_tokens: usize,
    stop: Arc<AtomicBool>,
}

impl Talk<'_> {
    fn command(&mut self, command: &str) -> Result<()> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, rest.trim()) {
            ("reset", "") => {
                self.messages.retain(|message| message.role == "system");
                terminal::say("forgotten");
            }
            ("system", "") => self.messages.clear(),
            ("system", text) => self.messages = vec![Message::new("system", text)],
            ("adapter", weight) => match self.set_adapter(weight) {
                Ok(()) => terminal::say(&format!("adapter {weight}")),
                Err(Error::BadInput { problem, proposal, .. }) => terminal::say(&format!("{problem}: {proposal}")),
                Err(error) => return Err(error),
            },
            ("help", _) => terminal::say(HELP),
            _ => terminal::say(&format!("there is no /{name}; /help lists the commands")),
        }
        Ok(())
    }

    /// Multiplies what the adapter does.
    fn set_adapter(&mut self, weight: &str) -> Result<()> {
        let bad = |problem: String, proposal: &str| Err(Error::bad_input("/adapter", problem, proposal));
        let weight = match weight {
            "on" => 1.0,
            "off" => 0.0,
            number => match number.parse::<f32>() {
                Ok(number) if number.is_finite() => number,
                _ => return bad(format!("`{number}` is no weight"), "say /adapter on, off, or a number such as 0.5"),
            },
        };
        let Some(adapter) = self.session.adapter() else {
            return bad("there is no adapter".to_owned(), "start with --adapter FOLDER");
        };
        if adapter.placement.matrices_beside().next().is_some() || !adapter.placement.pieces.iter().all(is_product) {
            return bad("this kind of adapter has no weight".to_owned(), "start without --adapter to compare");
        }
        let whole = match &self.whole {
            Some(whole) => whole,
            None => self.whole.insert(adapter.contents()?),
        };
        adapter.set(&weighted(adapter, whole, weight)?);
        // What was read with the adapter as it was is another text now.
        self.generator.reset();
        Ok(())
    }

    /// Answers a message.
    fn turn(&mut self, text: &str, sampler: &mut Sampler) -> Result<()> {
        self.messages.push(Message::new("user", text));
        let prompt = loop {
            let template = chat_template(self.model)?;
            let prompt = encode_prompt(&self.model.tokenizer, template, &self.messages)?;
            if prompt.len() + self.max_new_tokens.min(self.context / 4) <= self.context {
                break prompt;
            }
            let first = self.messages.iter().position(|message| message.role != "system").unwrap_or(0);
            if first + 1 >= self.messages.len() {
                self.messages.pop();
                terminal::say(&format!("this message is too long: a conversation has {} tokens", self.context));
                return Ok(());
            }
            // With its answer, so that user and assistant keep taking turns.
            self.messages.drain(first..(first + 2).min(self.messages.len() - 1));
            terminal::say("(the oldest turns are forgotten: the conversation is longer than the model's memory)");
        };
        self.stop.store(false, Ordering::SeqCst);
        let mut stream = self.model.tokenizer.decode_stream();
        let mut answer = String::new();
        let mut give = |piece: Option<String>| -> Result<()> {
            self.model.tokenizer.stopped()?;
            let piece = piece.unwrap_or_default();
            answer.push_str(&piece);
            crate::cli::print(&piece)
        };
        let (stop, ends) = (&self.stop, &self.ends);
        self.generator.go_on(&prompt, sampler, self.max_new_tokens, ends, |id| {
            if !ends.contains(&id) {
                give(stream.push(id))?;
            }
            Ok(if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        give(stream.finish())?;
        crate::cli::print("\n")?;
        self.messages.push(Message::new("assistant", answer));
        Ok(())
    }
}

/// Whether what the method adds is as large as the last of its matrices, which then can carry a weight.
fn is_product(piece: &Piece) -> bool {
    match piece.method {
        Method::Lora(_) => piece.method.matrices(&piece.site).len() == 2,
        Method::Bottleneck(_) => true,
        Method::Dora(_) => false,
    }
}

/// The adapter's numbers with every B, and every last layer of a bottleneck, times `weight`.
fn weighted(adapter: &DeviceAdapter, whole: &[f32], weight: f32) -> Result<Vec<f32>> {
    let mut tensors = adapter.layout.unpack(whole);
    let is_last = |name: &str| [".lora_b", ".adapter_up", ".adapter_up_bias"].iter().any(|end| name.ends_with(end));
    for tensor in tensors.iter_mut().filter(|tensor| is_last(&tensor.name)) {
        tensor.values.iter_mut().for_each(|value| *value *= weight);
    }
    adapter.layout.pack("adapter", &tensors)
}

/// A flag that Ctrl-C sets from now on.
fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    let listening = signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop)).map(drop);
    #[cfg(not(unix))]
    let listening = {
        let stop = Arc::clone(&stop);
        ctrlc::set_handler(move || stop.store(true, Ordering::SeqCst))
    };
    listening.map_err(|error| Error::failed("Ctrl-C", format!("cannot listen to it: {error}"), "run in an ordinary terminal"))?;
    Ok(stop)
}
