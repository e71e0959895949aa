//! `corelane top`: a server's lanes in a terminal, from the JSON of its control port.
//!
//! One thread asks, this one draws and listens to keys; neither waits for the other. In reading order: `asker`,
//! `rates` (what happened between two answers), `state` (everything that is shown), `screen` (how), `text` (numbers).

mod asker;
mod rates;
mod screen;
mod state;
mod text;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use corelane_command::Failure;
use jiff::SignedDuration;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::asker::{Asker, News, Wish};
use self::state::State;
use crate::control_client::{ControlAccess, ControlClient};

/// Watch a running server in the terminal.
#[derive(clap::Args, Debug)]
#[command(after_help = "Keys: q quits, p pauses, s sorts sensors by count or by time, / searches them, arrows scroll \
    the cores.")]
pub struct TopArgs {
    /// Control port of the server, as `host:9600`.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9600")]
    control: String,

    #[command(flatten)]
    access: ControlAccess,

    /// Time between two questions, from 200ms to 1m.
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|interval| Duration::try_from(interval).ok());
    let allowed = Duration::from_millis(200)..=Duration::from_secs(60);
    parsed.filter(|interval| allowed.contains(interval)).ok_or_else(|| "write 200ms to 1m, as 1s".to_owned())
}

/// Shows the server until a key or a signal ends it.
pub fn run(args: TopArgs) -> Result<(), Failure> {
    let control = ControlClient::new(&args.control, &args.access)?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage("top draws on a terminal; for programs there is /api/v1/stats at the control port"));
    }
    let broken = |error: io::Error| Failure::failed(format!("cannot draw on this terminal: {error}"));
    let end = Arc::new(AtomicBool::new(false));
    // Ctrl-C comes as a key; these come from elsewhere, and leave the terminal as it was, too.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&end)).map_err(broken)?;
    }
    let (wishes, wished) = channel();
    let (news, told) = channel();
    let state = State::new(control.shown().to_owned());
    let asker = Asker::new(control, args.interval, wished, news);
    thread::Builder::new().name("asker".into()).spawn(move || asker.run()).map_err(broken)?;
    let mut terminal = ratatui::try_init().map_err(broken)?;
    let done = show(&mut terminal, state, &told, &wishes, &end);
    ratatui::try_restore().and(done).map_err(broken)
}

fn show(
    terminal: &mut DefaultTerminal,
    mut state: State,
    told: &Receiver<News>,
    wishes: &Sender<Wish>,
    end: &AtomicBool,
) -> io::Result<()> {
    while !end.load(Ordering::Relaxed) {
        while let Ok(news) = told.try_recv() {
            state.take(news);
        }
        terminal.draw(|frame| screen::draw(frame, &state))?;
        if event::poll(LOOK_EVERY)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
        {
            match pressed(&mut state, key) {
                Press::Quit => break,
                Press::Nothing => (),
                // It has ended only together with this thread.
                Press::Wish(wish) => drop(wishes.send(wish)),
            }
        }
    }
    Ok(())
}

/// Between two looks at what the server told.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a key means.
#[derive(Debug, PartialEq)]
enum Press {
    Quit,
    Nothing,
    Wish(Wish),
}

fn pressed(state: &mut State, key: KeyEvent) -> Press {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Press::Quit } else { Press::Nothing };
    }
    if let Some(typed) = &mut state.typed {
        match key.code {
            KeyCode::Char(letter) => typed.push(letter),
            KeyCode::Backspace => drop(typed.pop()),
            KeyCode::Enter => return Press::Wish(state.search_for_typed()),
            KeyCode::Esc => state.typed = None,
            _ => (),
        }
        return Press::Nothing;
    }
    match key.code {
        KeyCode::Char('q') => return Press::Quit,
        KeyCode::Char('p') => return Press::Wish(state.toggle_pause()),
        KeyCode::Char('s') => return Press::Wish(state.toggle_order()),
        KeyCode::Char('/') => state.typed = Some(String::new()),
        // Gives up a search, or does nothing.
        KeyCode::Esc if !state.search.is_empty() => {
            state.typed = Some(String::new());
            return Press::Wish(state.search_for_typed());
        }
        KeyCode::Down => state.scroll(1),
        KeyCode::Up => state.scroll(-1),
        _ => (),
    }
    Press::Nothing
}

#[cfg(test)]
mod tests;
