//! `hayloft` as a client of a farm and as its operator's tool.

mod action;
mod guarded;
mod operators;
