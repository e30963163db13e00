//! Phones that play tones to each other.

use std::{env, fs, net::SocketAddr, path::Path, time::Duration};

use dialtone::launcher::wait_for;

use crate::{
    baresip::Account,
    netns::{Host, SERVERS},
    tone,
};

/// How long the sound may take to arrive.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Starts a phone that plays this tone; the user is called as its host.
pub(crate) fn with_tone<P>(
    host: &Host,
    transport: &str,
    port: u16,
    hertz: u32,
    start: impl FnOnce(&Path, &Host, &Account<'_>) -> P,
) -> P {
    let folder = env::temp_dir().join(transport).join(&host.name);
    fs::create_dir_all(&folder).unwrap();
    let tone = folder.join("tone.wav");
    tone::write(&tone, hertz);
    let gateway = SocketAddr::from((SERVERS, port));
    let account =
        Account { user: &host.name, password: "none", gateway, transport, tone: Some(&tone) };
    let phone = start(&folder, host, &account);
    assert_eq!(connections(host, port), usize::from(transport == "tcp"), "{transport}");
    phone
}

/// Waits until two seconds of this tone, and of no other one, were heard. A busy machine leaves gaps between them.
pub(crate) fn await_tone(listener: &str, heard: impl Fn() -> Vec<i16>, hertz: u32) {
    let right = |found: &&u32| found.abs_diff(hertz) <= 8;
    let mut looked_at = 7;
    let enough = wait_for(LIMIT, || {
        let heard = heard();
        if tone::quarters(&heard) <= looked_at {
            return None;
        }
        looked_at = tone::quarters(&heard);
        (tones(&heard).iter().filter(right).count() >= 8).then_some(())
    });
    let tones = tones(&heard());
    println!(
        "table: {listener} heard {} to {} Hz for {} s; {hertz} Hz were played",
        tones.iter().min().unwrap_or(&0),
        tones.iter().max().unwrap_or(&0),
        tones.len() as f64 / 4.0
    );
    assert!(
        enough.is_some() && tones.iter().all(|found| right(&found)),
        "{listener} does not hear {hertz} Hz"
    );
}

/// The tones that were heard, each as often as there are quarters of a second of it.
fn tones(heard: &[i16]) -> Vec<u32> {
    let strongest = tone::strongest(heard).into_iter();
    strongest.filter(|(_, share)| *share > 0.8).map(|(hertz, _)| hertz).collect()
}

/// TCP connections that stand from a host to a port of the servers.
fn connections(host: &Host, port: u16) -> usize {
    let table = host.enter(|| fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    // The kernel prints addresses as they lie in memory.
    let to = format!("{:08X}:{port:04X}", u32::from_ne_bytes(SERVERS.octets()));
    table
        .lines()
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[2] == to && fields[3] == "01"
        })
        .count()
}
