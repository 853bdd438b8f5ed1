//! What a run is asked to do: [`options`] is the table of all options, [`recipe`] reads them from a file, [`adapter`] and [`bottleneck`] make of them what is trained, `row` is what one row of the
//! table means.

pub mod adapter;
pub mod bottleneck;
pub mod options;
pub mod recipe;
mod row;
