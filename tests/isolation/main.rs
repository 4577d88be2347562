//! Attacks: what an action may try against the worker's cache, against its
//! siblings, against the farm and against the host, each tried for real in an
//! action on a farm of `hayloft up`.
//!
//! One module for each attack, as `docs/threat-model.md` numbers them. Each runs
//! twice: on root's farm (inputs are hardlinks of the cache, each slot a user of
//! its own) and on a plain user's (inputs are copies, everything at one user).
//! Each has three parts:
//!
//! - the attack in an action, by the `probe` program, and what came of each thing
//!   it tried;
//! - the seal: no file of the worker's cache has changed, and the next action
//!   with the same inputs finds them as they were. On copies an attack on inputs
//!   may succeed for the action itself; the seal decides;
//! - a control: the same probe on the host, against the like that is not
//!   protected, succeeds. An attack that cannot succeed anywhere shows nothing.

mod arena;
mod inputs;

mod attack_01_open_input_for_writing;
mod attack_02_change_mode_of_input;
mod attack_03_change_metadata_of_input;
mod attack_04_write_input_otherwise;
mod attack_05_link_input_into_output;
mod attack_08_read_blob_of_another_action;
mod attack_09_read_sibling;
mod attack_12_kill;
mod attack_13_trace;
mod attack_14_leave_daemon;
mod attack_21_look_at_processes;
mod attack_24_setuid;
mod attack_38_connect;
