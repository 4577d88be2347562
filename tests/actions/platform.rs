//! Which actions a farm serves.

use tests::action::Action;
use tests::farm::Setup;
use tests::user::As;
use tonic::Code;

use crate::farm;

#[test]
fn a_farm_serves_any_platform() {
    let farm = farm();
    let action = Action::shell("exit 0");
    for properties in [
        &[][..],
        &[("OSFamily", "linux")],
        &[("ISA", "x86-64"), ("OSFamily", "linux"), ("colour", "blue")],
    ] {
        let action = action.clone().platform(properties);
        let _ = farm.client().run(&action).success();
    }
    farm.stop();
}

#[test]
fn a_farm_of_a_platform_serves_that_and_no_other() {
    let platform = ["--platform", "OSFamily=linux", "--platform", "ISA=x86-64"];
    let farm = Setup::new(As::possible()[0]).arguments(&platform).start();
    let action = Action::shell("exit 0");
    let same = action
        .clone()
        .platform(&[("ISA", "x86-64"), ("OSFamily", "linux")]);
    let _ = farm.client().run(&same).success();
    // What is asked for and what there is, and in what they differ.
    for (other, words) in [
        (
            &[("ISA", "x86-64"), ("OSFamily", "plan9")][..],
            ["plan9", "OSFamily"],
        ),
        (&[("ISA", "arm"), ("OSFamily", "linux")], ["arm", "x86-64"]),
        (&[("OSFamily", "linux")], ["linux", "ISA"]),
        (&[], ["ISA", "OSFamily"]),
    ] {
        let outcome = farm.client().run(&action.clone().platform(other));
        let _ = outcome.refused(Code::FailedPrecondition, &words);
    }
    farm.stop();
}
