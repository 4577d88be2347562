//! What one action is to its client: how a command runs, what comes back, what is
//! kept, and how it ends when it does not end by itself.
//!
//! On a farm of root where the tests are root's, else on one of their own user;
//! what differs between the two is in `isolation/`.

mod cache;
mod command;
mod ending;
mod input_root;
mod listening;
mod outputs;
mod platform;

use tests::farm::Farm;
use tests::user::As;

/// A farm as these tests can have it.
fn farm() -> Farm {
    Farm::start(As::possible()[0])
}
