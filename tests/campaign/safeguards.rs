//! Leaves the safeguards out, one at a time: the campaign has to notice each.

use clap::ValueEnum;
use lattice_gateway::safeguard::Safeguard;
use tokio::time::Instant;

use crate::{
    Options,
    faults::Fault,
    round::Plan,
    world::{Layout, Program, Topology},
};

/// What provokes the harm that a safeguard prevents.
fn provocation(safeguard: Safeguard) -> (&'static [Topology], &'static [Fault]) {
    const BROKEN_WIRES: &[Fault] = &[Fault::DropAnswers, Fault::HalfOpen, Fault::Cut];
    const LOST_SERVERS: &[Fault] = &[Fault::DropAnswers, Fault::KillGateway, Fault::KillAll];
    match safeguard {
        Safeguard::Expectation | Safeguard::FreshMirror => (&[Topology::R1File], BROKEN_WIRES),
        Safeguard::RingAndHorizon | Safeguard::RetryRule => {
            (&[Topology::R1File, Topology::R3File], LOST_SERVERS)
        }
        Safeguard::ProbeRule => (&[Topology::R1File], LOST_SERVERS),
        Safeguard::EtagTag => (&[Topology::R3Memory], &[Fault::KillAll]),
        Safeguard::ConnectionGate => (&[Topology::R1File], &[Fault::Cut, Fault::KillNode]),
        Safeguard::HonestError => (&[Topology::R1File], &[Fault::HalfOpen]),
        Safeguard::GaplessWitness | Safeguard::OnePublish => {
            (&[Topology::R1File], &[Fault::DropAnswers, Fault::KillGateway])
        }
        Safeguard::Settle => (&[Topology::R1File], &[Fault::StepClock]),
    }
}

/// The layouts in which it does something.
fn layouts(safeguard: Safeguard) -> &'static [Layout] {
    match safeguard {
        Safeguard::Settle => &[Layout::Component],
        // Elsewhere no put could be done by two publishes.
        Safeguard::OnePublish => &[Layout::CacheStream],
        _ => Layout::value_variants(),
    }
}

/// Prints a table, a row a safeguard; tells whether every one was missed.
pub async fn leave_out(options: &Options, names: &[String], first_seed: u64) -> bool {
    let chosen = Safeguard::ALL
        .into_iter()
        .filter(|(name, _)| names.iter().any(|asked| asked == name || asked == "all"));
    let chosen = chosen.flat_map(|(name, safeguard)| {
        let is_chosen = |layout: &&Layout| options.layouts.is_empty() || options.layouts.contains(layout);
        let layouts = layouts(safeguard).iter().filter(is_chosen);
        layouts
            .map(move |layout| (name, safeguard, *layout))
            .collect::<Vec<_>>()
    });
    let mut rows = Vec::new();
    let mut are_all_missed = true;
    for (name, safeguard, layout) in chosen {
        let began = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let program = Program::copied_to(folder.path(), Some(name.to_owned()));
        let (topologies, faults) = provocation(safeguard);
        let plan = Plan {
            program: &program,
            gateways: options.gateways,
            seconds: options.seconds(),
            alone: 0,
            topologies,
            layouts: &[layout],
            // Hosts overwrite the record of calls.
            has_hosts: Some(matches!(safeguard, Safeguard::Settle | Safeguard::GaplessWitness)),
            faults,
        };
        let mut noticed = None;
        for seed in first_seed.. {
            if began.elapsed() > options.time() || noticed.is_some() {
                break;
            }
            eprint!("{name}: ");
            let violations = plan.round(seed).await.violations;
            noticed = violations
                .first()
                .map(|first| (seed, began.elapsed(), violations.len(), first.clone()));
        }
        are_all_missed &= noticed.is_some();
        let layout = format!("{layout:?}");
        rows.push(match noticed {
            Some((seed, time, count, first)) => {
                let seconds = time.as_secs();
                format!("| `{name}` | {layout} | {seconds} s | {seed} | {count} | {first} |")
            }
            None => format!(
                "| `{name}` | {layout} | **not noticed** in {} min | | | |",
                options.time().as_secs() / 60
            ),
        });
    }
    println!(
        "\n| left out | layout | noticed after | seed | violations | the first |\n|---|---|---|---|---|---|"
    );
    for row in rows {
        println!("{row}");
    }
    are_all_missed
}
