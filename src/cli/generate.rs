//! `graftling generate`: the model's answer, as it is written.

use std::path::PathBuf;

use clap::Args;
use graftling::architecture::RopeOverride;
use graftling::data::conversation::encode_prompt;
use graftling::generate::{Generation, Generator, Sampler, Sampling, end_tokens};
use graftling::session::OpenModel;
use graftling::text::{ChatTemplate, Message, marks};
use graftling::{Error, Result};
use serde_json::json;

mod chat;

/// Let a model continue a text or answer a message
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling generate --model SmolLM2-135M-Instruct.Q4_1.gguf --chat \"What is a graft?\"
  graftling generate --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter my-adapter --chat \"What is a graft?\"
  graftling generate --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter my-adapter --chat      (a conversation; /help in it)
  graftling generate --model path/to/model --prompt \"Once upon a time\" --temperature 0.8 --top-p 0.95 --seed 7
  graftling generate --model path/to/model --prompt \"1, 2, 3,\" --max-new-tokens 16 --json")]
pub struct GenerateArgs {
    /// Model: a folder, a .gguf file, or a Hugging Face name
    #[arg(long, value_name = "M")]
    model: String,
    #[command(flatten)]
    adapters: super::AdapterArgs,
    /// Another rotary scaling than the model's: none, linear:FACTOR, dynamic:FACTOR, yarn:FACTOR or llama3:FACTOR [default: what the adapter was trained with]
    #[arg(long, value_name = "SCALING")]
    rope_scaling: Option<RopeOverride>,
    /// Text to continue, as it is
    #[arg(long, value_name = "P", required_unless_present = "chat", conflicts_with = "chat")]
    prompt: Option<String>,
    /// Message to answer, put into the model's chat template; without a message, a conversation in the terminal, or a line a turn from
    /// standard input
    #[arg(long, value_name = "P", num_args = 0..=1)]
    chat: Option<Option<String>>,
    /// Tokens to generate at most; the model may end earlier
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    max_new_tokens: usize,
    /// Divides the logits; 0 always takes the most probable token [default: 0; 1 if --top-k or --top-p is given]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Choose among the K most probable tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Choose among the fewest most probable tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Seed of the choice; the same seed gives the same text
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Print one JSON document: text, prompt_ids, token_ids
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: super::DeviceArgs,
}

/// Runs the command.
///
/// # Errors
/// Bad input in model, adapter, prompt or options; the GPU failed.
pub fn run(args: GenerateArgs) -> Result<()> {
    let by_chance = args.top_k.is_some() || args.top_p.is_some();
    let temperature = args.temperature.unwrap_or(if by_chance { 1.0 } else { 0.0 });
    let sampling = Sampling { temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let mut sampler = Sampler::new(sampling)?;
    if matches!(args.chat, Some(None)) && args.json {
        let problem = "is for one answer, not for a conversation";
        return Err(Error::bad_input("--json", problem, "Give a message: --chat TEXT."));
    }
    let model = args.adapters.open(&args.model, args.rope_scaling)?;
    if let Some(None) = args.chat {
        let settings = chat::Settings { adapters: &args.adapters, max_new_tokens: args.max_new_tokens, device: &args.device };
        return chat::run(&model, &settings, &mut sampler);
    }
    let config = &model.files.config;
    let prompt = prompt_ids(&model, &args)?;
    if prompt.len() >= config.context() {
        let problem = format!("it has {} tokens, the model reads at most {}", prompt.len(), config.context());
        return Err(Error::bad_input("prompt", problem, "give a shorter one"));
    }
    let context = prompt.len().saturating_add(args.max_new_tokens).min(config.context());

    let used = Generation { context };
    let session = args.device.session(&model, &args.adapters, &[&used])?;
    let mut generator = Generator::of(&session, used)?;

    let of_adapter = |folder| end_tokens(&model.tokenizer, model.template.as_ref(), folder, args.chat.is_some());
    let mut ends = of_adapter(args.adapters.folders.first().map(PathBuf::as_path))?;
    for folder in args.adapters.folders.iter().skip(1) {
        ends.extend(of_adapter(Some(folder))?);
    }
    let mut stream = model.tokenizer.decode_stream();
    let mut text = String::new();
    let mut give = |piece: Option<String>| -> Result<()> {
        model.tokenizer.stopped()?;
        let piece = piece.unwrap_or_default();
        text.push_str(&piece);
        if args.json { Ok(()) } else { super::print(&piece) }
    };
    let tokens = generator.generate(&prompt, &mut sampler, args.max_new_tokens, &ends, |id| match ends.contains(&id) {
        true => Ok(()),
        false => give(stream.push(id)),
    })?;
    give(stream.finish())?;
    match args.json {
        true => super::print_json(&json!({ "text": text, "prompt_ids": prompt, "token_ids": tokens })),
        false => super::print("\n"),
    }
}

fn prompt_ids(model: &OpenModel, args: &GenerateArgs) -> Result<Vec<u32>> {
    let Some(Some(message)) = &args.chat else {
        return model.tokenizer.encode(args.prompt.as_deref().unwrap_or_default(), true);
    };
    encode_prompt(&model.tokenizer, chat_template(model)?, &[Message::new("user", message)])
}

/// The template of a model that answers messages.
///
/// # Errors
/// Bad input: it has none, or one with marks that its tokenizer takes for text.
fn chat_template(model: &OpenModel) -> Result<&ChatTemplate> {
    let Some(template) = &model.template else {
        let problem = "the model has no chat template";
        return Err(Error::bad_input("--chat", problem, "use --prompt, or an instruction-tuned model"));
    };
    // As when training: a model reads other ids than those of its marks as other text, and its end would not be seen.
    if let Some(mark) = marks::split_in_template(&model.tokenizer, template) {
        return Err(marks::refusal(&model.tokenizer, &mark));
    }
    Ok(template)
}
