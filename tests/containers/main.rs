//! The images and compose files of `deploy/`, under a Docker engine of the tests' own.
//!
//! Nothing is pulled: [`images`] says what stands in for the images of others, [`farm`]
//! what else differs from what people get who start an example. The engine, the compiler
//! of images and what stand-ins are made of come from Debian's packages: with
//! `HAYLOFT_INSTALL=1` these tests install them, else they skip where they are missing.

mod bare;
mod bazel;
mod compose;
mod ending;
mod engine;
mod farm;
mod images;
mod load;
mod profile;
mod programs;
mod upgrade;

use tests::{skip, yaml};

/// Whether containers can be run, after what that takes was installed where it is allowed.
fn can_run(test: &str) -> bool {
    let mut files = vec![yaml::PYTHON];
    files.extend(engine::NEEDED);
    files.extend(images::NEEDED);
    skip::needs_root(test) && skip::has(test, &files)
}
