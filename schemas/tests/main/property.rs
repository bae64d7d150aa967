//! Random cases within a budget of seconds, from a seed that is printed.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Runs a test on random cases until the time is up. A failure prints the seed, which repeats the
/// run as `PROPTEST_RNG_SEED`, and the smallest case.
pub(crate) fn for_seconds<S: Strategy>(
    seconds: u64,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let seed = match Config::default().rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one(()),
    };
    eprintln!("PROPTEST_RNG_SEED={seed}");
    let mut runner = TestRunner::new(Config {
        cases: 16,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    });
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while Instant::now() < deadline {
        if let Err(failure) = runner.run(strategy, &test) {
            panic!("PROPTEST_RNG_SEED={seed}\n{failure}");
        }
        rounds += 1;
    }
    eprintln!("{} cases", rounds * 16);
    assert!(rounds > 1, "the budget is too small for this machine");
}
