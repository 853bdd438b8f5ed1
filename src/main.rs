#![deny(clippy::print_stdout, clippy::print_stderr)] // see `graftling::terminal`

mod cli;

#[global_allocator]
static ALLOCATOR: graftling::allocator::Bounded = graftling::allocator::Bounded;

fn main() {
    std::process::exit(cli::run());
}
