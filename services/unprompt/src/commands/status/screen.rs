//! A terminal that shows one text after another, in place.

use std::io::{self, Stdout, Write as _};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::Print;
use crossterm::terminal::{
    Clear, ClearType, DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen, size,
};
use crossterm::{execute, queue};

/// Number of rows of a terminal that does not report its size.
const ROWS: u16 = 24;

/// The terminal's alternate screen. Dropping it restores the previous content.
#[derive(Debug)]
pub struct Screen(Stdout);

impl Screen {
    pub fn open() -> io::Result<Self> {
        let mut screen = Self(io::stdout());
        execute!(screen.0, EnterAlternateScreen, Hide, DisableLineWrap)?;
        Ok(screen)
    }

    /// Draws as many lines as fit, over the previous ones, so that nothing flickers.
    pub fn draw(&mut self, text: &str) -> io::Result<()> {
        let rows = size().ok().map(|(_, rows)| rows).filter(|rows| *rows > 0).unwrap_or(ROWS);
        queue!(self.0, MoveTo(0, 0))?;
        for (row, line) in (0..rows).zip(text.lines()) {
            queue!(self.0, MoveTo(0, row), Print(line), Clear(ClearType::UntilNewLine))?;
        }
        let below = u16::try_from(text.lines().count()).unwrap_or(rows);
        if below < rows {
            queue!(self.0, MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
        }
        self.0.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Restoring a terminal that is gone fails, which does not matter.
        let _ = execute!(self.0, EnableLineWrap, Show, LeaveAlternateScreen);
    }
}
