//! What happens to enterprises after the first day: a script of source transactions, without end.
//!
//! An event of an enterprise's life touches several departments, one transaction in each, and the
//! others learn of it later. The script therefore holds a queue of steps that are due so many
//! transactions from now. A step is decided when it is due, on what the department knows by then:
//! it falls away if the enterprise has meanwhile been cancelled or deleted there.
//!
//! | event | 工商 | 国税 | 地税 | 质监 |
//! |---|---|---|---|---|
//! | EV1–EV4 establishment and registrations | I | I | I | I |
//! | EV5 change of name, address, representative, capital, scope | U I | U I | U I | U I |
//! | EV7 suspension and resumption | | U | I/U U | |
//! | EV8 irregular taxpayer recognised and released | | I/U U | U | |
//! | EV9 tax cancellation, then EV10 cancellation | I U | I U | I U | I U |
//! | EV13 move to another district | U I | U | U | |
//! | EV18 mistaken entry removed, with its children | D | D | D | D |

use std::collections::{BTreeMap, BTreeSet};

use super::Department;
use super::calendar::{Day, Moment};
use super::enterprise::Enterprise;
use super::initial::{self, Copy, Member, Population, local_key};
use super::random::{Random, permute};
use super::row::{Row, literal};

/// One transaction of a department.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Whose.
    pub department: Department,
    /// The event that it belongs to, such as `EV5`.
    pub event: &'static str,
    /// Its statements, in order.
    pub statements: Vec<String>,
}

/// The script. The same population gives the same transactions for ever.
#[derive(Clone, Debug)]
pub struct Script {
    seed: u64,
    random: Random,
    members: Vec<Member>,
    /// Steps by the transaction from which on they are due; the second number keeps their order.
    due: BTreeMap<(u64, u64), Step>,
    /// Steps enqueued so far.
    enqueued: u64,
    /// Transactions given so far.
    given: u64,
    /// Rows inserted so far, for their keys.
    inserted: u32,
    /// Enterprises that the script leaves alone.
    spared: BTreeSet<usize>,
}

/// What is to be written in one department about one enterprise.
#[derive(Clone, Debug)]
struct Step {
    event: &'static str,
    member: usize,
    department: Department,
    act: Act,
}

#[derive(Clone, Debug)]
enum Act {
    Register,
    /// The true value has changed; the department takes it over and files the change.
    Change(Change),
    Suspend,
    Resume,
    Recognise,
    Release,
    Cancel,
    Move,
    Remove,
}

#[derive(Clone, Debug)]
struct Change {
    aspect: Aspect,
    before: String,
    after: String,
}

#[derive(Clone, Copy, Debug)]
enum Aspect {
    Name,
    Address,
    Representative,
    Capital,
    Scope,
}

const ASPECTS: [Aspect; 5] = [
    Aspect::Name,
    Aspect::Address,
    Aspect::Representative,
    Aspect::Capital,
    Aspect::Scope,
];

impl Aspect {
    /// The code of the change in 工商's, 国税's and the other two's words.
    fn codes(self) -> [&'static str; 3] {
        match self {
            Self::Name => ["01", "001", "名称"],
            Self::Address => ["02", "002", "地址"],
            Self::Representative => ["03", "003", "法定代表人"],
            Self::Capital => ["04", "005", "注册资本"],
            Self::Scope => ["05", "004", "经营范围"],
        }
    }

    fn value(self, truth: &Enterprise) -> String {
        match self {
            Self::Name => truth.name.clone(),
            Self::Address => truth.address.clone(),
            Self::Representative => truth.representative.name.clone(),
            Self::Capital => truth.capital(),
            Self::Scope => truth.scope.clone(),
        }
    }

    fn change(self, truth: &mut Enterprise) {
        match self {
            Self::Name => truth.rename(),
            Self::Address => truth.change_address(),
            Self::Representative => truth.change_representative(),
            Self::Capital => truth.change_capital(),
            Self::Scope => truth.change_scope(),
        }
    }
}

impl Script {
    /// Begins the script for a population that the databases have been filled with.
    #[must_use]
    pub fn new(population: &Population) -> Self {
        Self {
            seed: population.seed,
            random: Random::of(population.seed ^ 0xEE17, 0),
            members: population.members.clone(),
            due: BTreeMap::new(),
            enqueued: 0,
            given: 0,
            inserted: 0,
            spared: BTreeSet::new(),
        }
    }

    /// Leaves an enterprise alone from now on, so that somebody else can change its rows.
    pub fn spare(&mut self, member: usize) {
        self.spared.insert(member);
    }

    /// Returns the members, as the departments know them after the transactions given so far.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the next transaction.
    pub fn next_transaction(&mut self) -> Transaction {
        loop {
            if let Some(transaction) = self.next_due() {
                self.given += 1;
                return transaction;
            }
            self.begin_event();
        }
    }

    fn next_due(&mut self) -> Option<Transaction> {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > self.given {
                return None;
            }
            let step = entry.remove();
            let statements = self.carry_out(&step);
            if !statements.is_empty() {
                return Some(Transaction {
                    department: step.department,
                    event: step.event,
                    statements,
                });
            }
        }
        None
    }

    fn enqueue(
        &mut self,
        lag: u32,
        event: &'static str,
        member: usize,
        department: Department,
        act: Act,
    ) {
        let place = (self.given + u64::from(lag), self.enqueued);
        self.enqueued += 1;
        self.due.insert(
            place,
            Step {
                event,
                member,
                department,
                act,
            },
        );
    }

    fn begin_event(&mut self) {
        match self.random.weighted(&[10, 60, 7, 6, 4, 8, 2]) {
            0 => self.establish(),
            1 => self.change(),
            2 => self.suspend(),
            3 => self.recognise(),
            4 => self.cancel(),
            5 => self.relocate(),
            _ => self.remove(),
        }
    }

    fn somebody(&mut self) -> Option<usize> {
        let count = u32::try_from(self.members.len()).expect("members have 32-bit indices");
        let member = self.random.below(count) as usize;
        (!self.spared.contains(&member)).then_some(member)
    }

    /// EV1 to EV4.
    fn establish(&mut self) {
        let index = u32::try_from(self.members.len()).expect("members have 32-bit indices");
        let established = self.now().day;
        let truth = Enterprise::generate(self.seed, index, Some(established));
        self.members.push(Member {
            truth,
            aic: None,
            stax: None,
            ltax: None,
            qts: None,
        });
        let member = index as usize;
        self.enqueue(0, "EV1", member, Department::Aic, Act::Register);
        let lag = self.random.between(1, 60);
        self.enqueue(lag, "EV2", member, Department::Qts, Act::Register);
        if self.random.chance(6200) {
            let lag = self.random.between(61, 120);
            self.enqueue(lag, "EV3", member, Department::Stax, Act::Register);
        }
        let lag = self.random.between(61, 120);
        self.enqueue(lag, "EV4", member, Department::Ltax, Act::Register);
    }

    /// EV5.
    fn change(&mut self) {
        let Some(member) = self.somebody() else {
            return;
        };
        let aspect = self.random.pick(&ASPECTS);
        let truth = &mut self.members[member].truth;
        let before = aspect.value(truth);
        aspect.change(truth);
        let change = Change {
            aspect,
            before,
            after: aspect.value(truth),
        };
        self.enqueue(
            0,
            "EV5",
            member,
            Department::Aic,
            Act::Change(change.clone()),
        );
        for department in [Department::Qts, Department::Stax, Department::Ltax] {
            let lag = self.random.between(1, 180);
            self.enqueue(lag, "EV5", member, department, Act::Change(change.clone()));
        }
    }

    /// EV7.
    fn suspend(&mut self) {
        let Some(member) = self.somebody() else {
            return;
        };
        let back = self.random.between(100, 600);
        for (department, lag) in [
            (Department::Ltax, 0),
            (Department::Stax, self.random.between(1, 30)),
        ] {
            self.enqueue(lag, "EV7", member, department, Act::Suspend);
            self.enqueue(lag + back, "EV7", member, department, Act::Resume);
        }
    }

    /// EV8.
    fn recognise(&mut self) {
        let Some(member) = self.somebody() else {
            return;
        };
        let back = self.random.between(200, 900);
        let released = self.random.chance(5000);
        for (department, lag) in [
            (Department::Stax, 0),
            (Department::Ltax, self.random.between(1, 60)),
        ] {
            self.enqueue(lag, "EV8", member, department, Act::Recognise);
            if released {
                self.enqueue(lag + back, "EV8", member, department, Act::Release);
            }
        }
    }

    /// EV9, and after it EV10.
    fn cancel(&mut self) {
        let Some(member) = self.somebody() else {
            return;
        };
        self.enqueue(0, "EV9", member, Department::Stax, Act::Cancel);
        let lag = self.random.between(1, 40);
        self.enqueue(lag, "EV9", member, Department::Ltax, Act::Cancel);
        let lag = lag + self.random.between(1, 120);
        self.enqueue(lag, "EV10", member, Department::Aic, Act::Cancel);
        self.enqueue(lag + 20, "EV10", member, Department::Qts, Act::Cancel);
    }

    /// EV13.
    fn relocate(&mut self) {
        let Some(member) = self.somebody() else {
            return;
        };
        self.members[member].truth.move_to_another_district();
        self.enqueue(0, "EV13", member, Department::Aic, Act::Move);
        for department in [Department::Stax, Department::Ltax] {
            let lag = self.random.between(10, 120);
            self.enqueue(lag, "EV13", member, department, Act::Move);
        }
    }

    /// EV18.
    fn remove(&mut self) {
        let Some(member) = self.somebody() else {
            return;
        };
        let department = self.random.pick(&Department::ALL);
        self.enqueue(0, "EV18", member, department, Act::Remove);
    }

    /// Two hundred transactions make a day.
    fn now(&self) -> Moment {
        let day = u32::try_from(self.given / 200).expect("fewer than 2^32 days");
        let of_day = u32::try_from(self.given % 200).expect("below 200");
        Moment {
            day: Day::START.plus(day + 1),
            milliseconds: of_day * 432_000,
        }
    }

    fn new_id(&mut self) -> u32 {
        self.inserted += 1;
        // Keys of the first day are below 2^30 + 2.
        (1 << 31) | permute(self.seed ^ 0x1D6, 30, self.inserted)
    }

    fn carry_out(&mut self, step: &Step) -> Vec<String> {
        if self.spared.contains(&step.member) {
            return Vec::new();
        }
        match step.department {
            Department::Aic => self.in_aic(step),
            Department::Stax => self.in_stax(step),
            Department::Ltax => self.in_ltax(step),
            Department::Qts => self.in_qts(step),
        }
    }

    fn in_aic(&mut self, step: &Step) -> Vec<String> {
        let now = self.now();
        let id = self.new_id();
        let investor_ids = [(); 5].map(|()| self.new_id());
        let index = self.members[step.member].truth.index;
        let key = local_key(self.seed, Department::Aic, index);
        let random = &mut self.random;
        let Member { truth, aic, .. } = &mut self.members[step.member];
        if let Act::Register = step.act {
            let copy = Copy { key, state: '1' };
            *aic = Some(copy);
            let count = random.between(1, 5) as usize;
            let investors: Vec<Row> = investor_ids[..count]
                .iter()
                .map(|id| initial::ent_investor(truth, key, *id, random, now))
                .collect();
            let base = initial::ent_base(truth, copy, now);
            return vec![Row::insert(&[base]), Row::insert(&investors)];
        }
        let Some(copy) = aic else { return Vec::new() };
        let own = format!("pripid = {}", copy.key);
        match &step.act {
            Act::Remove => {
                *aic = None;
                [
                    "ent_investor",
                    "ent_change",
                    "ent_inspect",
                    "ent_cancel",
                    "ent_base",
                ]
                .map(|table| format!("DELETE FROM {table} WHERE {own}"))
                .into()
            }
            _ if copy.state != '1' => Vec::new(),
            Act::Change(Change {
                aspect,
                before,
                after,
            }) => {
                let values = [aspect.codes()[0], before, after];
                let change = initial::ent_change(copy.key, id, values, now.day, now);
                let changed = Row::of("ent_base");
                let changed = match aspect {
                    Aspect::Name => changed.with("ent_name", after.as_str()),
                    Aspect::Address => changed.with("dom", after.as_str()),
                    Aspect::Representative => changed
                        .with("leg_rep", after.as_str())
                        .with("leg_id_no", truth.representative.id_number.as_str()),
                    Aspect::Capital => changed.with("reg_cap", after.as_str()),
                    Aspect::Scope => changed.with("op_scope", after.as_str()),
                };
                let changed = changed
                    .with("appr_date", now.day)
                    .with("upd_time", now.utc());
                vec![changed.update(&own), Row::insert(&[change])]
            }
            Act::Cancel => {
                copy.state = '3';
                let cancelled = initial::ent_cancel(truth, *copy, now.day, now);
                let changed = Row::of("ent_base")
                    .with("reg_state", "3")
                    .with("upd_time", now.utc());
                vec![Row::insert(&[cancelled]), changed.update(&own)]
            }
            Act::Move => {
                let changed = Row::of("ent_base")
                    .with("region", truth.region())
                    .with("reg_org", format!("{}000", truth.region()))
                    .with("dom", truth.address.as_str())
                    .with("upd_time", now.utc());
                vec![changed.update(&own)]
            }
            Act::Register | Act::Suspend | Act::Resume | Act::Recognise | Act::Release => {
                Vec::new()
            }
        }
    }

    fn in_stax(&mut self, step: &Step) -> Vec<String> {
        let now = self.now();
        let id = self.new_id();
        let index = self.members[step.member].truth.index;
        let key = local_key(self.seed, Department::Stax, index);
        let is_general = self.random.chance(1500);
        let Member { truth, stax, .. } = &mut self.members[step.member];
        if let Act::Register = step.act {
            let copy = Copy { key, state: "03" };
            *stax = Some(copy);
            let mut statements = vec![Row::insert(&[initial::dj_nsrxx(truth, copy, now)])];
            if is_general {
                statements.push(Row::insert(&[initial::rd_ybnsr(key, id, now)]));
            }
            return statements;
        }
        let Some(copy) = stax else { return Vec::new() };
        let own = format!("nsrdzdah = {}", copy.key);
        let touched = || Row::of("dj_nsrxx").with("xgrq", now.local());
        let state = copy.state;
        let mut put = |state: &'static str| {
            copy.state = state;
            touched().with("nsrzt_dm", state).update(&own)
        };
        match (&step.act, state) {
            (Act::Remove, _) => {
                *stax = None;
                [
                    "dj_bg", "rd_ybnsr", "rd_fzc", "dj_zx", "sb_ndhz", "dj_nsrxx",
                ]
                .map(|table| format!("DELETE FROM {table} WHERE {own}"))
                .into()
            }
            (_, "07") => Vec::new(),
            (
                Act::Change(Change {
                    aspect,
                    before,
                    after,
                }),
                _,
            ) => {
                let values = [aspect.codes()[1], before, after];
                let change = initial::dj_bg(copy.key, id, values, now);
                let changed = match aspect {
                    Aspect::Name => touched().with("nsrmc", after.as_str()),
                    Aspect::Address => touched()
                        .with("zcdz", after.as_str())
                        .with("scjydz", after.as_str()),
                    Aspect::Representative => touched().with("fddbrmc", after.as_str()),
                    // 国税 keeps no capital: it files the change alone.
                    Aspect::Capital => touched(),
                    Aspect::Scope => touched().with("jyfw", after.as_str()),
                };
                vec![changed.update(&own), Row::insert(&[change])]
            }
            (Act::Suspend, "03") => vec![put("04")],
            (Act::Resume, "04") => vec![put("03")],
            (Act::Recognise, "03") => {
                let recognised = initial::rd_fzc(copy.key, id, None, now);
                vec![Row::insert(&[recognised]), put("05")]
            }
            (Act::Release, "05") => {
                let open = format!("{own} AND jcrq IS NULL");
                let released = Row::of("rd_fzc")
                    .with("jcrq", now.day.compact())
                    .with("xgrq", now.local());
                vec![released.update(&open), put("03")]
            }
            (Act::Cancel, _) => vec![Row::insert(&[initial::dj_zx(copy.key, now)]), put("07")],
            (Act::Move, _) => {
                let changed = touched()
                    .with("swjg_dm", format!("1{}0000", truth.region()))
                    .with("xzqh_dm", truth.region());
                vec![changed.update(&own)]
            }
            (Act::Register | Act::Suspend | Act::Resume | Act::Recognise | Act::Release, _) => {
                Vec::new()
            }
        }
    }

    fn in_ltax(&mut self, step: &Step) -> Vec<String> {
        let now = self.now();
        let id = self.new_id();
        let index = self.members[step.member].truth.index;
        let key = local_key(self.seed, Department::Ltax, index);
        let Member { truth, ltax, .. } = &mut self.members[step.member];
        if let Act::Register = step.act {
            let copy = Copy { key, state: 1 };
            *ltax = Some(copy);
            return vec![Row::insert(&[initial::tax_reg(truth, copy, false, now)])];
        }
        let Some(copy) = ltax else { return Vec::new() };
        let own = format!("reg_id = {}", copy.key);
        let touched = || Row::of("tax_reg").with("updated_at", now.utc());
        let state = copy.state;
        let mut put = |state: i32| {
            copy.state = state;
            touched().with("status", state).update(&own)
        };
        match (&step.act, state) {
            (Act::Remove, _) => {
                *ltax = None;
                [
                    "tax_reg_change",
                    "suspension",
                    "tax_cancel",
                    "annual_summary",
                    "tax_reg",
                ]
                .map(|table| format!("DELETE FROM {table} WHERE {own}"))
                .into()
            }
            (_, 4) => Vec::new(),
            (
                Act::Change(Change {
                    aspect,
                    before,
                    after,
                }),
                _,
            ) => {
                let values = [aspect.codes()[2], before, after];
                let change = initial::tax_reg_change(copy.key, id, values, now);
                let changed = match aspect {
                    Aspect::Name => touched().with("name", after.as_str()),
                    Aspect::Address => touched()
                        .with("reg_addr", after.as_str())
                        .with("op_addr", after.as_str()),
                    Aspect::Representative => touched()
                        .with("leg_name", after.as_str())
                        .with("leg_id", truth.representative.id_number.as_str()),
                    // 地税 keeps neither: it files the change alone.
                    Aspect::Capital | Aspect::Scope => touched(),
                };
                vec![changed.update(&own), Row::insert(&[change])]
            }
            (Act::Suspend, 1) => vec![
                Row::insert(&[initial::suspension(copy.key, id, None, now)]),
                put(2),
            ],
            (Act::Resume, 2) => {
                let open = format!("{own} AND resumed_on IS NULL");
                let resumed = Row::of("suspension")
                    .with("resumed_on", now.day)
                    .with("updated_at", now.utc());
                vec![resumed.update(&open), put(1)]
            }
            (Act::Recognise, 1) => vec![put(3)],
            (Act::Release, 3) => vec![put(1)],
            (Act::Cancel, _) => vec![Row::insert(&[initial::tax_cancel(copy.key, now)]), put(4)],
            (Act::Move, _) => {
                let changed = touched()
                    .with("tax_office", format!("2{}0000", truth.region()))
                    .with("region", truth.region());
                vec![changed.update(&own)]
            }
            (Act::Register | Act::Suspend | Act::Resume | Act::Recognise | Act::Release, _) => {
                Vec::new()
            }
        }
    }

    fn in_qts(&mut self, step: &Step) -> Vec<String> {
        let now = self.now();
        let id = self.new_id();
        let Member { truth, qts, .. } = &mut self.members[step.member];
        if let Act::Register = step.act {
            let copy = Copy { key: 0, state: '1' };
            *qts = Some(copy);
            return vec![Row::insert(&[initial::org_code(truth, copy, now)])];
        }
        let Some(copy) = qts else { return Vec::new() };
        let own = format!("jgdm = {}", literal(Some(&truth.org_code)));
        let touched = || Row::of("org_code").with("gxsj", now.local());
        match &step.act {
            Act::Remove => {
                *qts = None;
                [
                    "org_code_change",
                    "org_code_check",
                    "org_code_void",
                    "prod_licence",
                    "org_code",
                ]
                .map(|table| format!("DELETE FROM {table} WHERE {own}"))
                .into()
            }
            _ if copy.state == '4' => Vec::new(),
            Act::Change(Change {
                aspect,
                before,
                after,
            }) => {
                let values = [aspect.codes()[2], before.as_str(), after];
                let change = initial::org_code_change(&truth.org_code, id, values, now.day);
                let changed = match aspect {
                    Aspect::Name => touched().with("jgmc", after.as_str()),
                    Aspect::Address => touched().with("jgdz", after.as_str()),
                    Aspect::Representative => touched()
                        .with("fddbr", after.as_str())
                        .with("zjhm", truth.representative.id_number.as_str()),
                    Aspect::Capital => touched().with("zczj", after.as_str()),
                    Aspect::Scope => touched(),
                };
                vec![changed.update(&own), Row::insert(&[change])]
            }
            Act::Cancel => {
                copy.state = '4';
                let void = initial::org_code_void(&truth.org_code, now.day);
                vec![Row::insert(&[void]), touched().with("zt", "4").update(&own)]
            }
            Act::Register
            | Act::Suspend
            | Act::Resume
            | Act::Recognise
            | Act::Release
            | Act::Move => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_population_gives_the_same_script() {
        let population = Population::generate(3, 200);
        let (mut one, mut two) = (Script::new(&population), Script::new(&population));
        for _ in 0..500 {
            assert_eq!(one.next_transaction(), two.next_transaction());
        }
    }

    #[test]
    fn every_event_of_the_demo_occurs_and_every_department_writes() {
        let mut script = Script::new(&Population::generate(3, 400));
        let mut seen = BTreeSet::new();
        for _ in 0..4000 {
            let transaction = script.next_transaction();
            seen.insert((transaction.event, transaction.department));
        }
        for event in [
            "EV1", "EV2", "EV3", "EV4", "EV5", "EV7", "EV8", "EV9", "EV10", "EV13", "EV18",
        ] {
            assert!(
                seen.iter().any(|(seen, _)| *seen == event),
                "{event} never occurs"
            );
        }
        for department in Department::ALL {
            assert!(
                seen.contains(&("EV18", department)),
                "nothing is ever removed in {department:?}"
            );
        }
    }

    #[test]
    fn a_spared_enterprise_is_left_alone() {
        let population = Population::generate(3, 20);
        let mut script = Script::new(&population);
        let spared = 4;
        script.spare(spared);
        let before = format!("{:?}", script.members()[spared]);
        for _ in 0..2000 {
            script.next_transaction();
        }
        assert_eq!(before, format!("{:?}", script.members()[spared]));
    }
}
