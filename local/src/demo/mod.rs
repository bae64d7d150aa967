//! The demo: four departments share views of their data while they go about their work.
//!
//! Everything is done as a user would: servers and platform are processes of their own, connectors
//! and views are registered over the public HTTP API, changes are made in the departments'
//! databases, and what arrives is looked at in the subscribers'. The demo ends with a comparison of
//! every view with its source, by SQL that shares nothing with the platform ([`shares`]).
//!
//! Read in this order: the play ([`play`]), its scenes ([`steps`]), the [`stage`] it is given on.

mod changes;
mod compare;
mod growth;
mod keys;
mod load;
mod registration;
mod screen;
mod shares;
mod stage;
mod steps;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::load::Load;
use self::screen::Screen;
use self::shares::{SHARES, Share};
use self::stage::Stage;
use self::watch::Watch;
use crate::departments::Department;
use crate::departments::events::Script;
use crate::departments::initial::Population;
use crate::testkit::{Platform, PlatformOptions};

/// How a demo is played.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `hutong` program, for control plane and workers.
    pub binary: PathBuf,
    /// Whether all stays up at the end, until Ctrl-C.
    pub keep: bool,
    /// Whether a value at a subscriber is falsified before the comparison, which must then fail.
    pub plant_difference: bool,
    /// The seed of the sample.
    pub seed: u64,
    /// The number of true enterprises.
    pub enterprises: u32,
}

/// The master secret of the demo's platform.
const MASTER: &str = "a master secret for the demo alone";
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
const SNAPSHOTS_TIMEOUT: Duration = Duration::from_secs(180);
/// How long the sources' work is watched before the scenes begin.
const WATCHED: Duration = Duration::from_secs(20);
const REFRESH: Duration = Duration::from_secs(1);
/// A small department is read in a second or two.
const SNAPSHOT_REFRESH: Duration = Duration::from_millis(200);
/// Time for the last changes to arrive before the comparison counts.
const SETTLING: Duration = Duration::from_secs(60);

/// Plays the demo. Returns the exit code: 0 if all views equal their sources, 1 if one does not, 130
/// if it was interrupted.
///
/// # Errors
///
/// If something could not be started, registered or done; the message says what.
pub async fn run(options: Options) -> Result<u8> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut screen = Screen::new();
    screen.say("starting Kafka and PostgreSQL");
    let mut stage = tokio::select! {
        stage = Stage::start() => stage?,
        _ = interrupted.recv() => return Ok(130),
        _ = terminated.recv() => return Ok(130),
    };
    let outcome = tokio::select! {
        played = Box::pin(play(&options, &stage, &mut screen)) => played.map(Some),
        _ = interrupted.recv() => Ok(None),
        _ = terminated.recv() => Ok(None),
    };
    let outcome = match outcome {
        Ok(Some((is_equal, mut platform))) => {
            if options.keep {
                tell_where(&platform, &stage, &mut screen);
                tokio::select! {
                    _ = interrupted.recv() => {}
                    _ = terminated.recv() => {}
                }
            }
            platform
                .stop_all()
                .await
                .map(|()| if is_equal { 0 } else { 1 })
        }
        Ok(None) => Ok(130),
        Err(error) => Err(error),
    };
    if !matches!(outcome, Ok(0 | 130)) {
        let logs = stage.folder().display().to_string();
        stage.keep_logs();
        screen.say(&format!("logs are kept in {logs} until the next run"));
    }
    stage.strike().await?;
    outcome
}

/// Plays it all. Returns whether all views equal their sources, and the platform, still up.
async fn play(options: &Options, stage: &Stage, screen: &mut Screen) -> Result<(bool, Platform)> {
    screen.say(&format!(
        "filling the four departments' databases ({} enterprises)",
        options.enterprises
    ));
    let population = Population::generate(options.seed, options.enterprises);
    stage.furnish(&population).await?;
    let mut script = Script::new(&population);
    let cast = steps::cast(&mut script).context("the sample has no enterprises for the scenes")?;

    screen.say("starting a control plane and two workers");
    let mut platform = start_platform(options, stage).await?;
    let mut watch = Watch::new(platform.api(), stage).await?;
    register_sources(&platform, stage, screen).await?;
    watch_snapshots(&mut watch, screen).await?;
    register_views(&platform, stage, screen).await?;
    watch_views_fill(&mut watch, screen).await?;

    screen.say(&format!(
        "the departments begin to work: {} transactions/s",
        load::RATE
    ));
    let clients = clients(stage).await?;
    let mut load = Load::start(script, clients);
    watch_for(WATCHED, &mut watch, &mut load, screen).await?;

    let mut scenes = steps::Scenes {
        stage,
        platform: &mut platform,
        watch: &mut watch,
        screen,
    };
    scenes.a_row_leaves(&cast).await?;
    scenes.a_row_enters(&cast).await?;
    scenes.a_share_is_revoked_and_granted_anew().await?;
    scenes.a_worker_is_killed(&cast, &WORKERS).await?;
    scenes.a_share_loses_a_column().await?;
    scenes.a_share_loses_rows().await?;
    scenes.a_share_is_widened().await?;
    scenes.a_column_is_added().await?;
    scenes.a_table_is_added().await?;
    load.check()?;
    watch_for(Duration::from_secs(5), &mut watch, &mut load, screen).await?;

    let committed = load.stop().await?;
    screen.say(&format!(
        "the departments have stopped after {committed} transactions; comparing"
    ));
    let is_equal = conclude(options, stage, watch.shares(), screen).await?;
    Ok((is_equal, platform))
}

async fn start_platform(options: &Options, stage: &Stage) -> Result<Platform> {
    let cluster = stage.cluster();
    let mut platform = PlatformOptions::on(
        &options.binary,
        &cluster,
        &stage.bootstrap,
        &stage.control.url,
    );
    let further = [("status_interval", "1s"), ("session_timeout", "10s")];
    platform
        .worker
        .extend(further.map(|(key, value)| (key.to_owned(), value.into())));
    let folder = stage.folder().join("platform");
    std::fs::create_dir_all(&folder)?;
    let mut platform = Platform::start_in(folder, None, platform).await?;
    let password = stage.password();
    platform.write_secrets(&[("source", password), ("sink", password)])?;
    platform.write_worker_secret("master", MASTER)?;
    for worker in WORKERS {
        platform.launch_worker(worker, "default")?;
    }
    for worker in WORKERS {
        platform.wait_worker(worker).await?;
    }
    Ok(platform)
}

async fn register_sources(platform: &Platform, stage: &Stage, screen: &mut Screen) -> Result<()> {
    for department in Department::ALL {
        let password = platform.secret("source");
        registration::source(platform.api(), stage, department, &password).await?;
        let name = registration::source_name(department);
        screen.say(&format!(
            "registered {name}: {} ({})",
            department.title(),
            department.database()
        ));
    }
    Ok(())
}

async fn watch_snapshots(watch: &mut Watch, screen: &mut Screen) -> Result<()> {
    let deadline = Instant::now() + SNAPSHOTS_TIMEOUT;
    loop {
        screen.show(&watch.sources().await?);
        if watch.all_streaming().await? {
            screen.say("all tables are read; the sources follow their logs");
            return Ok(());
        }
        if Instant::now() > deadline {
            let waiting = watch.not_running().await?;
            bail!("snapshots are not done after {SNAPSHOTS_TIMEOUT:?}; not running: {waiting:?}");
        }
        tokio::time::sleep(SNAPSHOT_REFRESH).await;
    }
}

async fn register_views(platform: &Platform, stage: &Stage, screen: &mut Screen) -> Result<()> {
    let api = platform.api();
    for share in &SHARES {
        registration::view(api, stage, share).await?;
        registration::sink(api, stage, share, &platform.secret("sink")).await?;
        screen.say(&format!(
            "registered view {} for {} ({})",
            share.view(),
            share.subscriber.title(),
            share.purpose
        ));
    }
    Ok(())
}

async fn watch_views_fill(watch: &mut Watch, screen: &mut Screen) -> Result<()> {
    let deadline = Instant::now() + SNAPSHOTS_TIMEOUT;
    screen.show_soon();
    loop {
        screen.show(&watch.panel().await?);
        let mut filled = true;
        for share in &SHARES {
            filled &= watch.rows(share).await? > 0;
        }
        if filled {
            screen.say("every view has rows at its subscriber");
            return Ok(());
        }
        if Instant::now() > deadline {
            let waiting = watch.not_running().await?;
            bail!("views are not filled after {SNAPSHOTS_TIMEOUT:?}; not running: {waiting:?}");
        }
        tokio::time::sleep(REFRESH).await;
    }
}

async fn watch_for(
    time: Duration,
    watch: &mut Watch,
    load: &mut Load,
    screen: &mut Screen,
) -> Result<()> {
    let until = Instant::now() + time;
    screen.show_soon();
    while Instant::now() < until {
        load.check()?;
        let mut panel = watch.panel().await?;
        let counts = Department::ALL
            .map(|department| format!("{} {}", department.database(), load.committed(department)));
        panel.push(format!("committed at the sources: {}", counts.join(", ")));
        screen.show(&panel);
        tokio::time::sleep(REFRESH).await;
    }
    Ok(())
}

async fn clients(stage: &Stage) -> Result<[tokio_postgres::Client; 4]> {
    let [aic, stax, ltax, qts] = Department::ALL.map(|department| stage.database(department));
    Ok([
        aic?.connect().await?,
        stax?.connect().await?,
        ltax?.connect().await?,
        qts?.connect().await?,
    ])
}

/// Compares, and says the last line.
async fn conclude(
    options: &Options,
    stage: &Stage,
    shares: &[Share],
    screen: &mut Screen,
) -> Result<bool> {
    let mut deadline = Instant::now() + SETTLING;
    let mut planted = false;
    loop {
        let difference = match compare::all(stage, shares, MASTER).await? {
            Ok(_) if options.plant_difference && !planted => {
                steps::falsify(stage).await?;
                planted = true;
                deadline = Instant::now() + REFRESH * 5;
                continue;
            }
            Ok(counts) => {
                for (share, count) in shares.iter().zip(counts) {
                    let (view, target) = (share.view(), share.target());
                    screen.say(&format!(
                        "{view}: {count} rows, equal in {target} at {}",
                        share.subscriber.front()
                    ));
                }
                screen.conclude("demo: all views equal their sources");
                return Ok(true);
            }
            Err(difference) => difference,
        };
        if Instant::now() > deadline {
            screen.conclude(&format!("demo: {difference}"));
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn tell_where(platform: &Platform, stage: &Stage, screen: &mut Screen) {
    let api = platform.api();
    screen.conclude(&format!("platform API    {}", api.platform_url));
    screen.conclude(&format!("connector API   {}", api.connect_url));
    screen.conclude(&format!("schema registry {}", api.registry_url));
    screen.conclude(&format!(
        "token           in {}",
        platform.token_file().display()
    ));
    for department in Department::ALL {
        if let (Ok(source), Ok(front)) = (stage.database(department), stage.front(department)) {
            screen.conclude(&format!(
                "{}            {}  and  {}",
                department.title(),
                source.url,
                front.url
            ));
        }
    }
    screen.conclude(&format!("Kafka           {}", stage.bootstrap));
    screen.conclude("staying up until Ctrl-C");
}
