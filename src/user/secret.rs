//! Passwords: from a terminal that does not show them, from the standard input, from a file.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    os::fd::AsFd,
    path::Path,
};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};

/// More than this is no password.
const MAX_INPUT: u64 = 65_536;

/// The first line of a file, which must be all that it has.
pub(super) fn from_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_INPUT).read_to_string(&mut text))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.contains('\n') {
        return Err(format!("{}: more than one line", path.display()));
    }
    Ok(line.to_owned())
}

/// Asks twice on a terminal; otherwise takes the first line of the standard input.
pub(super) fn ask(prompt: &str) -> Result<String, String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line(stdin.lock());
    }
    let first = hidden(prompt)?;
    if hidden("Again: ")? != first {
        return Err("the two differ; nothing has changed".to_owned());
    }
    Ok(first)
}

fn line(input: impl Read) -> Result<String, String> {
    let mut text = String::new();
    let mut input = BufReader::new(input.take(MAX_INPUT));
    input.read_line(&mut text).map_err(|error| format!("no password: {error}"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// Reads a line from the terminal, which does not show it.
fn hidden(prompt: &str) -> Result<String, String> {
    let failed = |error: nix::Error| format!("the terminal would show the password: {error}");
    let stdin = io::stdin();
    let shown = tcgetattr(stdin.as_fd()).map_err(failed)?;
    let mut quiet = shown.clone();
    quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
    quiet.local_flags.insert(LocalFlags::ECHONL);
    // Ctrl-C ends the line, not this process, which would leave the terminal silent.
    let interrupt = shown.control_chars[SpecialCharacterIndices::VINTR as usize];
    quiet.control_chars[SpecialCharacterIndices::VEOL2 as usize] = interrupt;
    tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &quiet).map_err(failed)?;
    eprint!("{prompt}");
    let _ = io::stderr().flush();
    // A terminal gives a line at a time.
    let mut input = stdin.lock();
    let read = input.fill_buf().map(<[u8]>::to_vec);
    tcsetattr(input.as_fd(), SetArg::TCSADRAIN, &shown).map_err(failed)?;
    let bytes = read.map_err(|error| format!("no password: {error}"))?;
    input.consume(bytes.len());
    if bytes.ends_with(&[interrupt]) {
        return Err("\ninterrupted; nothing has changed".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "the password is not UTF-8".to_owned())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
