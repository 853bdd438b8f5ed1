//! The numbers that define a model, from `config.json` or GGUF metadata.
