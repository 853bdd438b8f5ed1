//! Panics of libraries, as errors.
//!
//! A damaged tokenizer, a template from a stranger or a lost device makes some library panic where an error would do. Such calls go
//! through [`caught`]. None of these libraries is left in a state that matters: what they were building is thrown away.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is caught and told of as an error.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives, or the message of its panic, which is then not printed.
///
/// # Errors
/// The message of the panic.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !CATCHING.get() {
                report(panic);
            }
        }));
    });
    let before = CATCHING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    done.map_err(|panic| match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast_ref::<&str>().map_or_else(|| "a panic".to_string(), |message| (*message).to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(caught(|| 7), Ok(7));
        let number = 3;
        assert_eq!(caught(|| -> u32 { panic!("Error in Device::poll: {number}") }), Err("Error in Device::poll: 3".to_string()));
        assert_eq!(caught(|| caught(|| -> u32 { panic!("lost") }).unwrap_err()), Ok("lost".to_string()));
        assert!(!CATCHING.get());
    }
}
