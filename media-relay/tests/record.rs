//! Recordings, read by the programs that people will read them with.

mod common;

use std::f64::consts::TAU;
use std::path::Path;
use std::process::Command as Process;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Bed, Folder, PAIR, Phone, RTCP, installed, now, rtp_of};
use dialtone_media_relay::plane::{Command, EndSettings, Kind, Side};
use dialtone_media_relay::record::{Formats, Packet, Recorder, RecorderConfig, Recording, Tap};

const BOTH: Formats = Formats { pcap: true, wav: true };
const WALL: Duration = Duration::from_secs(1_800_000_000);

fn recorder(folder: &Folder) -> Recorder {
    Recorder::start(config(folder)).unwrap()
}

fn config(folder: &Folder) -> RecorderConfig {
    let folder = folder.path().to_owned();
    RecorderConfig { folder, queue_bytes: 16 << 20, file_bytes: 1 << 30, recordings: 10 }
}

fn begin(recorder: &Recorder, call_id: &str) -> (Recording, Instant) {
    let start = now();
    let recording = recorder.begin(start, UNIX_EPOCH + WALL, call_id.as_bytes(), BOTH).unwrap();
    (recording, start)
}

fn output(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Process::new(program).args(arguments).arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

/// µ-law of a tone: 20 ms from sample `first` on.
fn tone(hertz: f64, first: usize) -> Vec<u8> {
    let sample = |n: usize| ((TAU * hertz * n as f64 / 8_000.0).sin() * 16_000.0) as i32;
    (first..first + 160).map(|n| mu_law(sample(n))).collect()
}

/// ITU-T G.711, the plain way.
fn mu_law(sample: i32) -> u8 {
    let magnitude = sample.abs().min(32_635) + 132;
    let segment = (magnitude >> 7).ilog2();
    let code = (segment << 4) as u8 | (magnitude >> (segment + 3) & 0xf) as u8;
    !(code | if sample < 0 { 0x80 } else { 0 })
}

struct Line {
    tap: Tap,
    start: Instant,
}

impl Line {
    fn send(&self, side: Side, millis: u64, bytes: &[u8]) {
        let from = ["192.0.2.1:4000", "[2001:db8::2]:5000"][side as usize].parse().unwrap();
        let to = ["192.0.2.9:40000", "[2001:db8::9]:40002"][side as usize].parse().ok();
        let at = self.start + Duration::from_millis(millis);
        assert!(self.tap.packet(Packet { at, side, from, to, bytes }));
    }
}

/// Samples of left and right.
fn samples(wav: &Path) -> Vec<[i16; 2]> {
    let bytes = std::fs::read(wav).unwrap();
    let field = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((field(4), field(40)), (bytes.len() - 8, bytes.len() - 44));
    let sample = |pair: &[u8]| i16::from_le_bytes([pair[0], pair[1]]);
    bytes[44..].chunks_exact(4).map(|frame| [sample(frame), sample(&frame[2..])]).collect()
}

#[test]
fn a_call_through_the_plane_can_be_read_by_tshark() {
    if !installed("tshark") || !installed("capinfos") {
        return;
    }
    let folder = Folder::new("tshark");
    let recorder = recorder(&folder);
    let mut bed = Bed::new(["127.93.12.1", "::1"]);
    let [a, b] = ["127.93.12.3", "::1"].map(Phone::new);
    let settings = |phone: &Phone| EndSettings {
        rtp: Some(phone.address()),
        mux: true,
        ..EndSettings::default()
    };
    bed.open(Kind::Rtp, [settings(&a), settings(&b)]);
    let recording = recorder
        .begin(now(), SystemTime::UNIX_EPOCH + WALL, "../a b/ü@x".as_bytes(), BOTH)
        .unwrap();
    let file = recording.pcap().unwrap();
    bed.plane.execute(Command::Record { pair: PAIR, tap: recording.tap(0, Kind::Rtp) });
    bed.stats();
    for sequence in 0..25 {
        a.send(bed.rtp(Side::Offerer), &rtp_of(0, 0xaaaa, sequence, &[0xff; 160]));
        assert_eq!(b.receive().0.len(), 172);
        b.send(bed.rtp(Side::Answerer), &rtp_of(8, 0xbbbb, sequence, &[0xd5; 160]));
        assert_eq!(a.receive().0.len(), 172);
    }
    a.send(bed.rtp(Side::Offerer), &RTCP);
    b.receive();
    bed.plane.execute(Command::StopRecording { pair: PAIR });
    bed.stats();
    a.send(bed.rtp(Side::Offerer), &rtp_of(0, 0xaaaa, 25, &[0xff; 160]));
    b.receive();
    drop(recording);
    drop(recorder);

    assert_eq!(file.parent(), Some(folder.path()));
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("%2E.%2Fa%20b%2F%C3%BC@x."), "{name}");
    let infos = output("capinfos", &["-c", "-E", "-a"], &file);
    assert!(infos.contains("Number of packets:   51"), "{infos}");
    assert!(infos.contains("2027-01-15"), "{infos}");
    let ports: Vec<String> = [bed.rtp(Side::Offerer), bed.rtp(Side::Answerer)]
        .map(|local| local.port().to_string())
        .into();
    let decode = ports.iter().flat_map(|port| ["-d".to_owned(), format!("udp.port=={port},rtp")]);
    let fields = "-T fields -e ip.src -e ipv6.src -e udp.srcport -e udp.dstport -e rtp.ssrc -e rtp.p_type -e rtp.seq \
                  -e ip.checksum.status -e udp.checksum.status";
    let checks = "-o ip.check_checksum:TRUE -o udp.check_checksum:TRUE";
    let mut arguments: Vec<String> = decode.collect();
    arguments.extend(checks.split_whitespace().chain(fields.split_whitespace()).map(str::to_owned));
    arguments.push("-r".to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let lines = output("tshark", &arguments, &file);
    let expected = |side: &str, port: u16, to: &str, stream: &str, sequence: u32, sums: &str| {
        format!("{side}\t{port}\t{to}\t{stream}\t{sequence}\t{sums}")
    };
    for sequence in 0..25 {
        let from_a = expected(
            "127.93.12.3\t",
            a.address().port(),
            &ports[0],
            "0x0000aaaa\t0",
            sequence,
            "1\t3",
        );
        let from_b =
            expected("\t::1", b.address().port(), &ports[1], "0x0000bbbb\t8", sequence, "\t1");
        for line in [from_a, from_b] {
            assert!(lines.lines().any(|found| found == line), "{line:?} in\n{lines}");
        }
    }
    let rtcp = arguments.iter().copied().take(4).chain(["-Y", "rtcp.pt == 201", "-r"]);
    let reports = output("tshark", &rtcp.collect::<Vec<_>>(), &file);
    assert_eq!(reports.lines().filter(|line| line.contains("RTCP")).count(), 1, "{reports}");
}

#[test]
fn two_tones_come_out_on_two_tracks() {
    let folder = Folder::new("tones");
    let recorder = recorder(&folder);
    let (recording, start) = begin(&recorder, "tones");
    let line = Line { tap: recording.tap(3, Kind::Rtp), start };
    // The answerer begins a second later; every packet of the offerer has another delay, some change places.
    for n in 0..100u16 {
        let jitter = [0, 7, 31, 3, 15][usize::from(n) % 5];
        let packet = rtp_of(0, 1, n, &tone(400.0, usize::from(n) * 160));
        line.send(Side::Offerer, u64::from(n) * 20 + jitter, &packet);
        if n >= 50 {
            let packet = rtp_of(0, 2, n, &tone(1_000.0, usize::from(n) * 160));
            line.send(Side::Answerer, u64::from(n) * 20, &packet);
        }
    }
    let wav = recording.wav(3).unwrap();
    drop(recording);
    drop(recorder);

    let samples = samples(&wav);
    assert_eq!(samples.len(), 16_000);
    let left: Vec<f64> = samples.iter().map(|[left, _]| f64::from(*left)).collect();
    let right: Vec<f64> = samples.iter().map(|[_, right]| f64::from(*right)).collect();
    // The offerer's tone is without a gap or a fault: it is what was sent.
    for (n, sample) in left.iter().enumerate() {
        let sent = (TAU * 400.0 * n as f64 / 8_000.0).sin() * 16_000.0;
        assert!((sample - sent).abs() < 600.0, "{n}: {sample}, sent {sent}");
    }
    assert!(right[..8_000].iter().all(|sample| *sample == 0.0));
    for (n, sample) in right[8_000..].iter().enumerate() {
        let sent = (TAU * 1_000.0 * n as f64 / 8_000.0).sin() * 16_000.0;
        assert!((sample - sent).abs() < 600.0, "{n}: {sample}, sent {sent}");
    }
    if installed("sox") {
        for (channel, hertz) in [("1", 400), ("2", 1_000)] {
            let file = wav.to_str().unwrap();
            let stat = Process::new("sox")
                .args([file, "-n", "remix", channel, "trim", "1.2", "0.5", "stat"])
                .output()
                .unwrap();
            let text = String::from_utf8(stat.stderr).unwrap();
            let rough = text
                .lines()
                .find_map(|line| line.strip_prefix("Rough   frequency:"))
                .and_then(|value| value.trim().parse::<i32>().ok())
                .unwrap_or_else(|| panic!("{text}"));
            assert!((rough - hertz).abs() < hertz / 20, "{text}");
        }
        let info = output("soxi", &[], &wav);
        for line in ["Channels       : 2", "Sample Rate    : 8000", "Duration       : 00:00:02.00"]
        {
            assert!(info.contains(line), "{info}");
        }
    }
}

#[test]
fn gaps_are_silence_and_other_payloads_too() {
    let folder = Folder::new("gaps");
    let recorder = recorder(&folder);
    let (recording, start) = begin(&recorder, "gaps");
    let line = Line { tap: recording.tap(0, Kind::Rtp), start };
    let loud = [0x80; 160];
    line.send(Side::Offerer, 0, &rtp_of(0, 1, 0, &loud));
    // A telephone event, comfort noise, RTCP and noise.
    line.send(Side::Offerer, 20, &rtp_of(101, 1, 1, &[1, 10, 0, 160]));
    line.send(Side::Offerer, 40, &rtp_of(13, 1, 2, &[60]));
    line.send(Side::Offerer, 50, &RTCP);
    line.send(Side::Offerer, 50, b"noise");
    // Ten seconds later a stream whose timestamps have nothing to do with the first one; then A-law.
    line.send(Side::Offerer, 10_000, &rtp_of(0, 9, 77, &loud));
    line.send(Side::Offerer, 10_020, &rtp_of(8, 9, 78, &[0xaa; 160]));
    // Too late by far: lost.
    line.send(Side::Answerer, 100, &rtp_of(0, 5, 1, &loud));
    let (wav, pcap) = (recording.wav(0).unwrap(), recording.pcap().unwrap());
    drop(recording);
    drop(recorder);
    let samples = samples(&wav);
    assert_eq!(samples.len(), 80_320);
    let left = |range: std::ops::Range<usize>, value| {
        samples[range].iter().all(|frame| *frame == [value, 0])
    };
    assert!(left(0..160, 32_124));
    assert!(left(160..80_000, 0));
    assert!(left(80_000..80_160, 32_124));
    assert!(left(80_160..80_320, 32_256));
    // Everything that came is in the pcap: 8 packets, and the header.
    assert!(std::fs::metadata(pcap).unwrap().len() > 24 + 8 * 16);
}

#[test]
fn what_is_encrypted_is_kept_as_packets_only() {
    let folder = Folder::new("encrypted");
    let recorder = recorder(&folder);
    let (recording, start) = begin(&recorder, "encrypted");
    let packet = rtp_of(0, 1, 0, &[0x80; 160]);
    for (stream, kind) in [(0, Kind::Srtp), (1, Kind::Opaque), (2, Kind::Rtp)] {
        Line { tap: recording.tap(stream, kind), start }.send(Side::Offerer, 0, &packet);
    }
    let pcap = recording.pcap().unwrap();
    let wavs = [0, 1, 2].map(|stream| recording.wav(stream).unwrap());
    drop(recording);
    drop(recorder);
    assert_eq!(wavs.map(|wav| wav.exists()), [false, false, true]);
    assert!(std::fs::metadata(pcap).unwrap().len() > 24 + 3 * (16 + 172));
}

#[test]
fn what_nobody_ends_can_be_read_but_for_its_last_seconds() {
    let folder = Folder::new("killed");
    let recorder = recorder(&folder);
    let (recording, start) = begin(&recorder, "killed");
    let line = Line { tap: recording.tap(0, Kind::Rtp), start };
    for n in 0..400 {
        line.send(Side::Offerer, u64::from(n) * 20, &rtp_of(0, 1, n, &[0x80; 160]));
    }
    let wav = recording.wav(0).unwrap();
    let length = || {
        let bytes = std::fs::read(&wav).unwrap_or_default();
        let field = bytes.get(40..44).map(|field| u32::from_le_bytes(field.try_into().unwrap()));
        field.filter(|length| bytes.len() >= 44 + *length as usize)
    };
    common::eventually("five seconds are there", || length() >= Some(5 * 8_000 * 4));
    drop(recording);
    drop(recorder);
    assert_eq!(samples(&wav).len(), 64_000);
}

#[test]
fn limits() {
    let folder = Folder::new("limits");
    let config = RecorderConfig { file_bytes: 20_000, recordings: 2, ..config(&folder) };
    let recorder = Recorder::start(config).unwrap();
    let (first, start) = begin(&recorder, "first");
    let (second, _) = begin(&recorder, "second");
    let refused = recorder.begin(now(), UNIX_EPOCH, b"third", BOTH);
    assert_eq!(refused.unwrap_err().to_string(), "2 recordings are running already");
    drop(second);
    let (third, _) = begin(&recorder, "third");
    let line = Line { tap: first.tap(0, Kind::Rtp), start };
    for n in 0..100 {
        line.send(Side::Offerer, u64::from(n) * 20, &rtp_of(0, 1, n, &[0xff; 160]));
    }
    let files = [first.pcap().unwrap(), first.wav(0).unwrap()];
    drop((first, third));
    common::eventually("all is taken", || recorder.totals().beyond_limit > 100);
    let totals = recorder.totals();
    assert_eq!(
        (totals.running, totals.packets, totals.dropped, totals.failed_files),
        (0, 100, 0, 0)
    );
    drop(recorder);
    for file in files {
        let length = std::fs::metadata(&file).unwrap().len();
        assert!((1_000..=20_000).contains(&length), "{length}");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(
        Recorder::start(RecorderConfig {
            folder: folder.path().join("nowhere"),
            queue_bytes: 0,
            file_bytes: 0,
            recordings: 0,
        })
        .is_err()
    );
}

#[test]
fn a_full_queue_drops_and_counts() {
    let folder = Folder::new("queue");
    let recorder = Recorder::start(RecorderConfig { queue_bytes: 0, ..config(&folder) }).unwrap();
    let (recording, start) = begin(&recorder, "queue");
    let from = "192.0.2.1:1".parse().unwrap();
    let packet = Packet { at: start, side: Side::Offerer, from, to: None, bytes: &[0; 172] };
    assert!(!recording.tap(0, Kind::Rtp).packet(packet));
    assert_eq!((recorder.totals().dropped, recorder.totals().packets), (1, 0));
}

#[test]
fn a_folder_that_vanishes_costs_the_recording_only() {
    let folder = Folder::new("vanishes");
    let recorder = recorder(&folder);
    std::fs::remove_dir_all(folder.path()).unwrap();
    let (recording, start) = begin(&recorder, "vanishes");
    let line = Line { tap: recording.tap(0, Kind::Rtp), start };
    line.send(Side::Offerer, 0, &rtp_of(0, 1, 0, &[0xff; 160]));
    line.send(Side::Offerer, 20, &rtp_of(0, 1, 1, &[0xff; 160]));
    drop(recording);
    common::eventually("both files have failed", || recorder.totals().failed_files == 2);
}
