//! What fuzzing has found worth keeping is played again: `fuzz/corpus/TARGET/*` through the same functions.

use std::{collections::BTreeSet, fs, path::Path};

use dialtone_registrar_ns::fuzz::Reached;

/// Name and body of a target.
type Target = (&'static str, fn(&[u8]));

/// The bodies of `fuzz/targets/*.rs`.
const TARGETS: [Target; 13] = [
    ("ng_body", dialtone_ng::fuzz::body),
    ("sctp_cookie", dialtone_transport::fuzz::cookie),
    ("sctp_demultiplexer", dialtone_transport::fuzz::demultiplexer),
    ("sctp_packet", dialtone_transport::fuzz::packet),
    ("sdp", dialtone_sip::fuzz::sdp),
    ("signed", dialtone_sip_pool::fuzz::signed),
    ("sip_digest", dialtone_sip::fuzz::digest),
    ("sip_message", dialtone_sip::fuzz::message),
    ("sip_stream", dialtone_sip::fuzz::stream),
    ("sip_value", dialtone_sip::fuzz::value),
    ("wire_asap", dialtone_wire::fuzz::asap),
    ("wire_enrp", dialtone_wire::fuzz::enrp),
    ("wire_framer", dialtone_wire::fuzz::framer),
];
const REGISTRAR: &str = "registrar";

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder("corpus").join(target)).unwrap();
    let corpus: Vec<_> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!corpus.is_empty(), "{target}");
    corpus
}

#[test]
fn corpora_do_no_harm() {
    for (target, body) in TARGETS {
        let corpus = corpus(target);
        corpus.iter().for_each(|bytes| body(bytes));
        println!("table: {target}: {} inputs", corpus.len());
    }
}

#[test]
fn the_registrars_corpus_reaches_every_handler() {
    let (corpus, mut all) = (corpus(REGISTRAR), Reached::default());
    for bytes in &corpus {
        all.extend(dialtone_registrar_ns::fuzz::operations(bytes));
    }
    println!("table: {REGISTRAR}: {} inputs, events {:?}", corpus.len(), all.events);
    assert!(all.is_everything(), "{all:?}");
}

#[test]
fn every_target_has_a_corpus_and_is_played() {
    let names = |name: &str| -> BTreeSet<String> {
        let files = fs::read_dir(folder(name)).unwrap();
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        files.map(|file| stem(&file.unwrap().path())).collect()
    };
    let played = TARGETS.iter().map(|(name, _)| *name).chain([REGISTRAR]);
    let played: BTreeSet<String> = played.map(str::to_owned).collect();
    assert_eq!(names("targets"), played);
    assert_eq!(names("corpus"), played);
}
