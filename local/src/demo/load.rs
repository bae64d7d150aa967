//! Keeps the departments busy: carries out the script's transactions, each in its department's
//! database and in that department's order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;

use crate::departments::Department;
use crate::departments::events::{Script, Transaction};

/// Transactions a second, of all departments together.
pub(super) const RATE: u32 = 60;
/// Transactions that may wait for a department's database.
const WAITING_MAX: usize = 200;

/// The running script. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Load {
    tasks: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
    committed: Arc<[AtomicU64; 4]>,
}

impl Load {
    /// Begins; the clients are the departments', in the order of [`Department::ALL`].
    pub(super) fn start(script: Script, clients: [Client; 4]) -> Self {
        let committed: Arc<[AtomicU64; 4]> = Arc::default();
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut senders = Vec::new();
        for (place, client) in clients.into_iter().enumerate() {
            let (sender, transactions) = mpsc::channel(WAITING_MAX);
            senders.push(sender);
            tasks.spawn(commit_all(
                client,
                transactions,
                Arc::clone(&committed),
                place,
            ));
        }
        tasks.spawn(play(script, senders, stopped));
        Self {
            tasks,
            stop,
            committed,
        }
    }

    /// Returns the transactions that a department has committed so far.
    pub(super) fn committed(&self, department: Department) -> u64 {
        self.committed[place(department)].load(Ordering::Relaxed)
    }

    /// Stops after the transactions that are under way.
    ///
    /// # Errors
    ///
    /// If a transaction was refused.
    pub(super) async fn stop(mut self) -> Result<u64> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("the load's task")??;
        }
        Ok(self
            .committed
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum())
    }

    /// Fails if a transaction was refused.
    pub(super) fn check(&mut self) -> Result<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.context("the load's task")??;
        }
        Ok(())
    }
}

fn place(department: Department) -> usize {
    let found = Department::ALL
        .iter()
        .position(|known| *known == department);
    found.expect("ALL holds every department")
}

async fn play(
    mut script: Script,
    senders: Vec<mpsc::Sender<Transaction>>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut clock = tokio::time::interval(Duration::from_secs(1) / RATE);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => return Ok(()),
            _ = clock.tick() => {}
        }
        let transaction = script.next_transaction();
        if senders[place(transaction.department)]
            .send(transaction)
            .await
            .is_err()
        {
            // The department's task has ended with an error, which its owner will see.
            return Ok(());
        }
    }
}

async fn commit_all(
    client: Client,
    mut transactions: mpsc::Receiver<Transaction>,
    committed: Arc<[AtomicU64; 4]>,
    place: usize,
) -> Result<()> {
    while let Some(transaction) = transactions.recv().await {
        let statements = transaction.statements.join(";\n");
        client
            .batch_execute(&format!("BEGIN;\n{statements};\nCOMMIT"))
            .await
            .with_context(|| {
                format!(
                    "{} in {:?}:\n{statements}",
                    transaction.event, transaction.department
                )
            })?;
        committed[place].fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
