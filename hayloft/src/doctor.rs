//! `hayloft doctor`: what isolation this host can give, and how to get the rest.
//!
//! Exits with 0 when the default sandbox can run here, else with 1.

use std::process::ExitCode;

use anyhow::{Context, Result};
use sandbox::{Feature, Held, HostIds, Plan, Policy, Probe, Root};
use serde_json::json;

use crate::{cli, seccomp_profile};

/// Examines the host and prints what it found.
///
/// # Errors
/// The host cannot be examined at all.
pub fn run(arguments: &cli::Doctor) -> Result<ExitCode> {
    if let Some(path) = &arguments.seccomp_profile {
        let profile = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let widened = seccomp_profile::widened(&profile);
        print!(
            "{}",
            widened.with_context(|| format!("cannot use {}", path.display()))?
        );
        return Ok(ExitCode::SUCCESS);
    }
    let probe = Probe::run().context("cannot examine this host")?;
    let host_ids = if probe.uid == 0 {
        // Which range does not matter to what the host can give.
        HostIds::Range {
            start: 1_900_000_000,
            count: 1,
        }
    } else if let (Some(range), None) = (
        probe.subordinate.first(),
        probe.missing(Feature::SubordinateIds),
    ) {
        HostIds::Range {
            start: range.start,
            count: range.count,
        }
    } else {
        HostIds::SameUser
    };
    let root = match arguments.root {
        cli::Root::Host => Root::Host,
        cli::Root::Input => Root::Input,
    };
    let policy = Policy::new(root, host_ids);
    let planned = Plan::new(&policy, &probe);
    if arguments.plan {
        print!("{}", planned?);
        return Ok(ExitCode::SUCCESS);
    }
    let refusal = planned.err().map(|refusal| refusal.to_string());
    let protections = Plan::protections(&policy, &probe);
    if arguments.json {
        println!("{}", report(&probe, &protections, refusal.as_deref()));
    } else {
        print(&probe, &protections, refusal.as_deref());
    }
    Ok(if refusal.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn report(probe: &Probe, protections: &[Held], refusal: Option<&str>) -> serde_json::Value {
    json!({
        "kernel": probe.kernel,
        "uid": probe.uid,
        "landlock_abi": probe.landlock_abi,
        "container": probe.surroundings.container.map(|container| container.to_string()),
        "sandbox_can_run": refusal.is_none(),
        "refusal": refusal,
        "host": probe.findings.iter().map(|finding| json!({
            "feature": finding.feature.to_string(),
            "available": finding.available,
            "why": finding.why,
            "remedy": finding.remedy,
        })).collect::<Vec<_>>(),
        "protections": protections.iter().map(|held| json!({
            "name": held.protection.name(),
            "held": held.held,
            "why": held.why,
            "remedy": held.remedy,
        })).collect::<Vec<_>>(),
    })
}

fn print(probe: &Probe, protections: &[Held], refusal: Option<&str>) {
    println!(
        "Linux {}, user {}, Landlock ABI {}",
        probe.kernel, probe.uid, probe.landlock_abi
    );
    if let Some(container) = probe.surroundings.container {
        println!("inside a container of {container}");
    }
    let row = |yes: bool, name: &str, why: &str, remedy: &str| {
        let mark = if yes { "held   " } else { "missing" };
        println!("  {mark}  {name:<30}  {why}");
        if !yes && !remedy.is_empty() {
            println!("  {:7}  {:30}  to get it: {remedy}", "", "");
        }
    };
    println!("\nWhat this host gives:");
    // Root needs none.
    let needless = |feature| probe.uid == 0 && feature == Feature::SubordinateIds;
    let findings = probe.findings.iter();
    for finding in findings.filter(|finding| !needless(finding.feature)) {
        row(
            finding.available,
            &finding.feature.to_string(),
            &finding.why,
            &finding.remedy,
        );
    }
    match refusal {
        Some(_) => println!("\nWhat would protect each action:"),
        None => println!("\nWhat protects each action:"),
    }
    for held in protections {
        row(held.held, held.protection.name(), &held.why, &held.remedy);
    }
    match refusal {
        Some(refusal) => println!("\nThe sandbox cannot run here: {refusal}"),
        None => println!("\nThe sandbox can run here."),
    }
}
