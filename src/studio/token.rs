//! The word that opens a studio: who has read it in the terminal is the user.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use sha2::{Digest, Sha256};

/// 128 bits that nobody else knows, in hexadecimal digits.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Another one each time.
    pub fn random() -> Self {
        // The keys of a `RandomState` are 128 bits of the system's randomness, which its hashes do not give away.
        let (state, mut hash) = (RandomState::new(), Sha256::new());
        (0..4_u64).for_each(|at| hash.update(state.hash_one(at).to_le_bytes()));
        Self(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }

    /// As the address has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `given` is the token; how long that takes does not tell how much of it is right.
    pub fn is(&self, given: &str) -> bool {
        let differs = self.0.bytes().zip(given.bytes()).fold(0, |all, (own, other)| all | (own ^ other));
        given.len() == self.0.len() && differs == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = Token::random();
        let text = token.as_str().to_string();
        assert!(text.len() == 32 && token.is(&text));
        assert_ne!(text, Token::random().as_str());
        assert!(!token.is("") && !token.is(&text[1..]) && !token.is(&format!("{text}0")) && !token.is(&"0".repeat(32)));
    }
}
