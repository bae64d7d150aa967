//! The log of a process: how it is written, and what of it, which may change while it runs.
//!
//! A *logger* is a module by its path, such as `hutong_worker::supervisor`; [`ROOT`] is all that no
//! other logger names. The nearest logger above a module decides about it. Levels that are changed
//! here last as long as the process, as Kafka Connect's do.
//!
//! It knows neither Kafka nor HTTP: who is told what by whom is for the roles to say.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// The logger of all that no other names.
pub const ROOT: &str = "root";

/// Modules that have a say in every process, listed although nobody set their level.
const KNOWN: [&str; 6] = [
    "hutong_connectors_core",
    "hutong_connectors_postgres",
    "hutong_control_plane",
    "hutong_stream_processors",
    "hutong_transport",
    "hutong_worker",
];

/// How much a logger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(LevelFilter);

impl Level {
    /// Reads a level by its name in any case; those that only Log4j has are taken for the nearest.
    ///
    /// # Errors
    ///
    /// The text names none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let level = match text.to_ascii_uppercase().as_str() {
            "ALL" | "TRACE" => LevelFilter::TRACE,
            "DEBUG" => LevelFilter::DEBUG,
            "INFO" => LevelFilter::INFO,
            "WARN" => LevelFilter::WARN,
            "ERROR" | "FATAL" => LevelFilter::ERROR,
            "OFF" => LevelFilter::OFF,
            _ => return Err(Error::Level(text.to_owned())),
        };
        Ok(Self(level))
    }

    /// Returns its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self.0.into_level() {
            Some(tracing::Level::TRACE) => "TRACE",
            Some(tracing::Level::DEBUG) => "DEBUG",
            Some(tracing::Level::INFO) => "INFO",
            Some(tracing::Level::WARN) => "WARN",
            Some(tracing::Level::ERROR) => "ERROR",
            None => "OFF",
        }
    }
}

/// A logger and how much it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    /// The module's path, or [`ROOT`].
    pub name: String,
    /// How much it says.
    pub level: Level,
    /// When that was changed while the process ran, in milliseconds since 1970.
    pub last_modified_ms: Option<u64>,
}

/// The log could not be started, or a level not be set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The filter names no levels.
    #[error("\"{filter}\" names no levels")]
    Filter {
        /// The filter.
        filter: String,
        /// Why not.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody has started a log before.
    #[error("this process has a log already")]
    Started,
    /// The text names no level.
    #[error("invalid log level '{0}'")]
    Level(String),
}

/// What is said, and how to make it so.
#[derive(Default)]
struct Levels {
    /// By module; [`ROOT`] is among them once the log was started.
    known: BTreeMap<String, (LevelFilter, Option<u64>)>,
    handle: Option<reload::Handle<Targets, Registry>>,
}

/// One log for a process, as `tracing` has it. A `std` mutex: held for map operations.
static LEVELS: OnceLock<Mutex<Levels>> = OnceLock::new();

fn levels() -> MutexGuard<'static, Levels> {
    let levels = LEVELS.get_or_init(Mutex::default);
    levels.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the log on standard error. `filter` is a level, and levels by module, as in
/// `info,hutong_worker=debug`.
///
/// # Errors
///
/// The filter is none; the process has a log already.
pub fn start(filter: &str, is_json: bool) -> Result<(), Error> {
    let targets: Targets = filter.parse().map_err(|source| Error::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let (reloaded, handle) = reload::Layer::new(targets.clone());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if is_json {
        lines.json().boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    let started = tracing_subscriber::registry()
        .with(lines.with_filter(reloaded))
        .try_init();
    started.map_err(|_| Error::Started)?;
    let mut levels = levels();
    levels.known = targets
        .iter()
        .map(|(name, level)| (name.to_owned(), (level, None)))
        .collect();
    let root = targets.default_level().unwrap_or(LevelFilter::ERROR);
    levels.known.insert(ROOT.to_owned(), (root, None));
    levels.handle = Some(handle);
    Ok(())
}

/// Returns all loggers, by name.
#[must_use]
pub fn loggers() -> Vec<Logger> {
    let levels = levels();
    let mut names: Vec<&str> = levels.known.keys().map(String::as_str).collect();
    names.extend(KNOWN);
    names.push(ROOT);
    names.sort_unstable();
    names.dedup();
    names.iter().map(|name| levels.logger(name)).collect()
}

/// Returns a logger, if it is listed or lies below one that is.
#[must_use]
pub fn logger(name: &str) -> Option<Logger> {
    let levels = levels();
    let mut named = KNOWN
        .iter()
        .copied()
        .chain(levels.known.keys().map(String::as_str));
    let is_known = name == ROOT || named.any(|known| is_within(name, known));
    is_known.then(|| levels.logger(name))
}

/// Makes a logger and those below it say so much, and returns their names.
pub fn set(name: &str, level: Level) -> Vec<String> {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let now_ms = u64::try_from(now_ms).ok();
    let mut levels = levels();
    let mut affected: Vec<String> = levels
        .known
        .keys()
        .filter(|known| name == ROOT || is_within(known, name))
        .cloned()
        .collect();
    affected.push(name.to_owned());
    affected.sort_unstable();
    affected.dedup();
    for name in &affected {
        levels.known.insert(name.clone(), (level.0, now_ms));
    }
    levels.apply();
    drop(levels);
    tracing::info!(
        logger = name,
        level = level.as_str(),
        "the log's level was changed"
    );
    affected
}

/// Returns whether a module is another one or lies below it.
fn is_within(name: &str, outer: &str) -> bool {
    let rest = name.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

impl Levels {
    /// Returns a logger; its level is that of the nearest one above it.
    fn logger(&self, name: &str) -> Logger {
        let above = self
            .known
            .iter()
            .filter(|(known, _)| is_within(name, known));
        let nearest = above.max_by_key(|(known, _)| known.len());
        let found = nearest.map(|(_, found)| *found);
        let root = || self.known.get(ROOT).map(|(level, _)| (*level, None));
        let (level, last_modified_ms) = found.or_else(root).unwrap_or((LevelFilter::OFF, None));
        Logger {
            name: name.to_owned(),
            level: Level(level),
            last_modified_ms,
        }
    }

    fn targets(&self) -> Targets {
        let mut targets = Targets::new();
        for (name, (level, _)) in &self.known {
            targets = if name == ROOT {
                targets.with_default(*level)
            } else {
                targets.with_target(name.clone(), *level)
            };
        }
        targets
    }

    /// Without a log there is nothing to be changed, and no error: a test may have none.
    fn apply(&self) {
        if let Some(handle) = &self.handle
            && let Err(error) = handle.reload(self.targets())
        {
            tracing::error!(%error, "the log's levels could not be changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_inherited_from_the_nearest_logger_and_set_for_all_below() {
        assert!(matches!(
            start("loud,,x=y=z", false),
            Err(Error::Filter { .. })
        ));
        start("warn,hutong_worker=info,hutong_worker::status=debug", false).unwrap();
        assert!(matches!(start("info", false), Err(Error::Started)));
        let level = |name: &str| logger(name).map(|logger| logger.level.as_str());
        assert_eq!(level(ROOT), Some("WARN"));
        assert_eq!(level("hutong_worker::supervisor"), Some("INFO"));
        assert_eq!(level("hutong_worker::status"), Some("DEBUG"));
        assert_eq!(level("hutong_transport"), Some("WARN"));
        assert_eq!(level("hutong_workers"), None, "no such module");
        assert_eq!(logger(ROOT).unwrap().last_modified_ms, None);

        assert!(!tracing::enabled!(target: "hutong_worker::supervisor", tracing::Level::DEBUG));
        let affected = set("hutong_worker", Level::parse("trace").unwrap());
        assert_eq!(affected, ["hutong_worker", "hutong_worker::status"]);
        assert_eq!(level("hutong_worker::status"), Some("TRACE"));
        assert!(logger("hutong_worker").unwrap().last_modified_ms > Some(0));
        assert!(tracing::enabled!(target: "hutong_worker::supervisor", tracing::Level::DEBUG));
        assert!(!tracing::enabled!(target: "hutong_transport", tracing::Level::INFO));

        set(ROOT, Level::parse("OFF").unwrap());
        assert!(!tracing::enabled!(target: "hutong_worker", tracing::Level::ERROR));
        let listed: Vec<String> = loggers().into_iter().map(|logger| logger.name).collect();
        assert!(
            listed.contains(&ROOT.to_owned()) && listed.contains(&"hutong_transport".to_owned())
        );
        assert!(matches!(Level::parse("loud"), Err(Error::Level(_))));
    }
}
