//! Whole actions through a worker between fake peers.

mod buildbarn;
mod disks;
mod documented;
mod execution;
mod fetching;
mod hostile;
mod inputs;
mod outputs;
mod seal;
mod slot;
mod upstream;
