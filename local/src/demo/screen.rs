//! What the person who watches sees: lines that are refreshed in place on a terminal, and plain
//! lines, a few seconds apart, where there is none.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Panels of plain lines come no oftener.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The output of a demo.
#[derive(Debug)]
pub(super) struct Screen {
    is_terminal: bool,
    /// Lines below the cursor's home that the next panel replaces.
    shown: usize,
    last_plain: Option<Instant>,
    started: Instant,
}

impl Screen {
    /// Takes the standard output.
    pub(super) fn new() -> Self {
        Self {
            is_terminal: std::io::stdout().is_terminal(),
            shown: 0,
            last_plain: None,
            started: Instant::now(),
        }
    }

    /// Says something that stays.
    pub(super) fn say(&mut self, line: &str) {
        let seconds = self.started.elapsed().as_secs();
        let mut text = self.erase();
        text.push_str(&format!(
            "[{:02}:{:02}] {line}\n",
            seconds / 60,
            seconds % 60
        ));
        self.write(&text);
    }

    /// Says a line without the time, such as the last one.
    pub(super) fn conclude(&mut self, line: &str) {
        let mut text = self.erase();
        text.push_str(line);
        text.push('\n');
        self.write(&text);
    }

    /// Shows how things stand, in the place of what was shown before.
    pub(super) fn show(&mut self, panel: &[String]) {
        if !self.is_terminal {
            let now = Instant::now();
            if self
                .last_plain
                .is_some_and(|last| now - last < PLAIN_INTERVAL)
            {
                return;
            }
            self.last_plain = Some(now);
        }
        let mut text = self.erase();
        for line in panel {
            text.push_str("        ");
            text.push_str(line);
            text.push('\n');
        }
        self.write(&text);
        if self.is_terminal {
            self.shown = panel.len();
        }
    }

    /// Lets the next panel of plain lines come at once.
    pub(super) fn show_soon(&mut self) {
        self.last_plain = None;
    }

    fn erase(&mut self) -> String {
        let shown = std::mem::take(&mut self.shown);
        if shown == 0 {
            String::new()
        } else {
            format!("\x1b[{shown}A\x1b[J")
        }
    }

    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // Whoever closed the pipe does not want to read on; the exit code still tells.
        let _nobody_reads = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Draws a bar of `done` out of `total`.
pub(super) fn bar(done: u64, total: u64) -> String {
    const WIDTH: u64 = 24;
    let filled = (done * WIDTH)
        .checked_div(total)
        .map_or(WIDTH, |filled| filled.min(WIDTH));
    (0..WIDTH)
        .map(|place| if place < filled { '#' } else { '.' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_when_all_is_done_or_there_is_nothing() {
        assert_eq!(bar(0, 10), "........................");
        assert_eq!(bar(5, 10), "############............");
        assert_eq!(bar(12, 10), "########################");
        assert_eq!(bar(0, 0), "########################");
    }
}
