//! What makes a run survive, and what is left of the user's own files on the way: [`checkpoint`] writes and reads them, [`lock`] keeps
//! two runs out of one folder, [`recovery`] goes on after a lost device.

pub mod checkpoint;
pub mod lock;
pub mod recovery;
