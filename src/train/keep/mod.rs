//! What makes a run survive, and keeps the user's own files out of its way.
//!
//! * [`checkpoint`]: what a run is, on disk; [`sums`]: the digests that tell a good one; [`recovery`]: going on after a lost device;
//! * [`folder`]: what is in an output folder, and what of it may be touched; [`beginning`]: whether a run may begin or go on there;
//!   [`lock`]: one run a folder; `plain`: opening files there.

pub mod beginning;
pub mod checkpoint;
pub mod folder;
pub mod lock;
pub(in crate::train) mod plain;
pub mod recovery;
pub mod sums;
