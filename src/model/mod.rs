pub mod config;

pub mod anatomy;
