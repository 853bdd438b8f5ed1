//! Model and adapter files: what is read from sound ones, and that unsound ones are refused with one clear message.

mod adapters;
mod bottlenecks;
mod configs;
mod folders;
mod gguf;
mod gguf_file;
mod hub;
mod inspect;
mod merging;
#[path = "../common/program.rs"]
mod program;
mod targets;
mod tiny;

/// The whole message of an error that must be there.
fn message<T>(result: graftling::Result<T>) -> String {
    match result {
        Ok(_) => panic!("this must be refused"),
        Err(error) => error.to_string(),
    }
}
