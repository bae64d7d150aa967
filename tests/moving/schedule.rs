//! What happens in a run, drawn from its seed before it begins. Pure: the schedule knows which views
//! exist and what they grant, because it decides it.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::model::{
    ACCOUNTS, Column, Condition, EXTRAS, FORMS, HIDDEN, Mask, PEOPLE, Policy, SCRAPS, View,
};
use super::step::{Action, Killed, Kind, Place, Step};

const IN_A_CHUNK: [Place; 2] = [
    Place {
        file: "reach-source-chunk-before",
        whose: "source/",
    },
    Place {
        file: "reach-source-chunk-after",
        whose: "source/",
    },
];
const IN_A_FILL: [Place; 2] = [
    Place {
        file: "reach-processor-fill-before",
        whose: "processor/",
    },
    Place {
        file: "reach-processor-fill-after",
        whose: "processor/",
    },
];

/// Every kind but comparisons, which stand at fixed places, and what other steps bring with them.
const DRAWN: [Kind; 24] = [
    Kind::WidenRows,
    Kind::WidenRows,
    Kind::NarrowRows,
    Kind::NarrowRows,
    Kind::OtherRows,
    Kind::WidenColumns,
    Kind::NarrowColumns,
    Kind::Mask,
    Kind::Unmask,
    Kind::Rotate,
    Kind::Revoke,
    Kind::AddColumn,
    Kind::WidenType,
    Kind::DropColumn,
    Kind::AddTable,
    Kind::RemoveTable,
    Kind::Truncate,
    Kind::KillSource,
    Kind::KillProcessor,
    Kind::KillSink,
    Kind::KillControlPlane,
    Kind::KillBroker,
    Kind::KillInFill,
    Kind::LoseState,
];

/// Steps between two comparisons.
const STRETCH: usize = 9;

/// Columns that may be granted or not, apart from those that were added.
const OPTIONAL: [&str; 5] = ["region", "name", "phone", "card", "note"];
/// The columns that are masked.
const MASKABLE: [&str; 3] = ["name", "phone", "card"];
/// The column that a step adds, with a constant default.
pub(super) const ADDED: &str = "added";
pub(super) const ADDED_DEFAULT: &str = "Zq7Added";
const ADD_COLUMN: &str = "alter table reg.person add column added text not null default 'Zq7Added'";

/// Draws a schedule.
pub(super) fn draw(seed: u64) -> Vec<Step> {
    let mut plan = Plan {
        random: StdRng::seed_from_u64(seed),
        views: BTreeMap::new(),
        revoked: Vec::new(),
        has_table: false,
        is_table_shared: false,
        steps: Vec::new(),
    };
    for view in [PEOPLE, HIDDEN, SCRAPS] {
        plan.create(view);
    }
    let mut drawn = DRAWN.to_vec();
    drawn.shuffle(&mut plan.random);
    // Somewhere in the middle a view comes that was not there in the beginning.
    let at = plan.random.random_range(0..drawn.len());
    drawn.insert(at, Kind::Create);
    for (index, kind) in drawn.into_iter().enumerate() {
        plan.step(kind);
        if index % STRETCH == STRETCH - 1 {
            plan.push(Kind::Compare, Action::Compare);
        }
    }
    plan.finish();
    plan.steps
}

struct Plan {
    random: StdRng,
    views: BTreeMap<View, Policy>,
    /// Views that were taken back, and are to be granted anew.
    revoked: Vec<(View, Policy)>,
    has_table: bool,
    is_table_shared: bool,
    steps: Vec<Step>,
}

impl Plan {
    fn push(&mut self, kind: Kind, action: Action) {
        let waits = self.random.random_bool(0.5);
        self.steps.push(Step {
            kind,
            action,
            waits,
        });
    }

    fn create(&mut self, view: View) {
        let mut columns = Vec::new();
        if view != HIDDEN {
            columns.push(Column::clear("id"));
        }
        columns.push(Column::clear("ver"));
        for name in OPTIONAL {
            if self.random.random_bool(0.6) {
                columns.push(Column::clear(name));
            }
        }
        let policy = Policy {
            columns,
            condition: Condition {
                form: self.random.random_range(0..FORMS),
                width: self.random.random_range(40..70),
            },
        };
        self.views.insert(view, policy.clone());
        self.push(Kind::Create, Action::Create(view, policy));
    }

    fn step(&mut self, kind: Kind) {
        if kind == Kind::Rotate || kind == Kind::AddColumn || self.random.random_bool(0.5) {
            self.grant();
        }
        match kind {
            Kind::Create => self.create(ACCOUNTS),
            Kind::WidenRows | Kind::NarrowRows | Kind::OtherRows => self.change_rows(kind),
            Kind::WidenColumns => self.widen(),
            Kind::NarrowColumns => self.narrow(),
            Kind::Mask => self.mask(),
            Kind::Unmask => self.unmask(),
            Kind::KillInFill => self.kill_in_fill(),
            Kind::Rotate => self.push(kind, Action::Rotate),
            Kind::Revoke => self.revoke(),
            Kind::AddColumn => {
                self.push(kind, Action::Source(ADD_COLUMN));
                self.grant_added();
            }
            Kind::WidenType => self.push(
                kind,
                Action::Source("alter table reg.person alter column name type varchar(90)"),
            ),
            Kind::DropColumn => self.push(
                kind,
                Action::Source("alter table reg.person drop column spare"),
            ),
            Kind::AddTable => self.add_table(),
            Kind::RemoveTable => self.remove_table(),
            Kind::Truncate => {
                let table = ["truncate reg.account", "truncate reg.scrap"];
                let sql = table[self.random.random_range(0..table.len())];
                self.push(kind, Action::Source(sql));
            }
            Kind::KillSource => self.push(kind, Action::Kill(Killed::Source)),
            Kind::KillProcessor => self.push(kind, Action::Kill(Killed::Processor)),
            Kind::KillSink => self.push(kind, Action::Kill(Killed::Sink)),
            Kind::KillControlPlane => self.push(kind, Action::Kill(Killed::ControlPlane)),
            Kind::KillBroker => self.push(kind, Action::Kill(Killed::Broker)),
            Kind::LoseState => self.push(kind, Action::LoseState),
            Kind::Grant | Kind::KillInChunk | Kind::Compare => {}
        }
    }

    /// What is left open is closed: the table is there, nothing is revoked, everything is compared.
    fn finish(&mut self) {
        if !self.has_table {
            self.add_table();
        }
        while !self.revoked.is_empty() {
            self.grant();
        }
        self.push(Kind::Compare, Action::Compare);
    }

    fn any_view(&mut self) -> (View, Policy) {
        let live: Vec<View> = self.views.keys().copied().collect();
        let view = *live.choose(&mut self.random).expect("there are views");
        (view, self.views[&view].clone())
    }

    fn change(&mut self, kind: Kind, view: View, policy: Policy) {
        self.views.insert(view, policy.clone());
        self.push(kind, Action::Change(view, policy));
    }

    fn change_rows(&mut self, kind: Kind) {
        let (view, mut policy) = self.any_view();
        self.turn_rows(kind, &mut policy);
        self.change(kind, view, policy);
    }

    fn turn_rows(&mut self, kind: Kind, policy: &mut Policy) {
        let condition = &mut policy.condition;
        let by = self.random.random_range(8..20);
        match kind {
            Kind::WidenRows => condition.width += by,
            Kind::NarrowRows => condition.width -= by,
            _ => condition.form = (condition.form + self.random.random_range(1..FORMS)) % FORMS,
        }
    }

    /// Returns a view of which a column, chosen by `wanted`, can be changed, and the column's name.
    fn pick(
        &mut self,
        names: &[&'static str],
        wanted: impl Fn(View, &Policy, &str) -> bool,
    ) -> Option<(View, Policy, &'static str)> {
        let mut found = Vec::new();
        for (view, policy) in &self.views {
            let names = names.iter().filter(|name| wanted(*view, policy, name));
            found.extend(names.map(|name| (*view, policy.clone(), *name)));
        }
        found.choose(&mut self.random).cloned()
    }

    fn widen(&mut self) {
        let picked = self.pick(&OPTIONAL, |_, policy, name| !policy.grants(name));
        if let Some((view, mut policy, name)) = picked {
            policy.columns.push(Column::clear(name));
            self.change(Kind::WidenColumns, view, policy);
        } else {
            self.narrow();
            self.widen();
        }
    }

    fn narrow(&mut self) {
        let picked = self.pick(&OPTIONAL, |_, policy, name| policy.grants(name));
        if let Some((view, mut policy, name)) = picked {
            policy.columns.retain(|column| column.name != name);
            self.change(Kind::NarrowColumns, view, policy);
        } else {
            self.widen();
            self.narrow();
        }
    }

    fn mask(&mut self) {
        let picked = self.pick(&MASKABLE, |_, policy, name| policy.shows_clear(name));
        let Some((view, mut policy, name)) = picked else {
            self.widen();
            return self.mask();
        };
        let masks = [Mask::First(4), Mask::Last(4), Mask::Null];
        let mask = masks.choose(&mut self.random).copied();
        for column in policy.columns.iter_mut().filter(|it| it.name == name) {
            column.mask = mask;
        }
        self.change(Kind::Mask, view, policy);
    }

    fn unmask(&mut self) {
        let picked = self.pick(&MASKABLE, |_, policy, name| {
            policy.grants(name) && !policy.shows_clear(name)
        });
        let Some((view, mut policy, name)) = picked else {
            self.mask();
            return self.unmask();
        };
        for column in policy.columns.iter_mut().filter(|it| it.name == name) {
            column.mask = None;
        }
        self.change(Kind::Unmask, view, policy);
    }

    fn kill_in_fill(&mut self) {
        let (view, mut policy) = self.any_view();
        self.turn_rows(Kind::WidenRows, &mut policy);
        let place = IN_A_FILL[self.random.random_range(0..IN_A_FILL.len())];
        self.views.insert(view, policy.clone());
        let action = Action::ChangeAndKill(view, policy, place);
        self.push(Kind::KillInFill, action);
    }

    /// Takes a view back; it is granted anew before the next step, or a few steps later.
    fn revoke(&mut self) {
        let (view, policy) = self.any_view();
        self.push(Kind::Revoke, Action::Revoke(view));
        self.views.remove(&view);
        self.revoked.push((view, policy));
    }

    fn grant(&mut self) {
        if let Some((view, policy)) = self.revoked.pop() {
            self.views.insert(view, policy.clone());
            self.push(Kind::Grant, Action::Create(view, policy));
        }
    }

    fn grant_added(&mut self) {
        let view = [PEOPLE, HIDDEN][self.random.random_range(0..2)];
        let mut policy = self.views[&view].clone();
        policy.columns.push(Column::clear(ADDED));
        self.change(Kind::WidenColumns, view, policy);
    }

    fn add_table(&mut self) {
        if self.has_table {
            self.remove_table();
            return;
        }
        self.has_table = true;
        if !self.is_table_shared {
            self.is_table_shared = true;
            self.push(Kind::AddTable, Action::AddTable);
            self.create(EXTRAS);
        } else {
            let place = IN_A_CHUNK[self.random.random_range(0..IN_A_CHUNK.len())];
            self.push(Kind::KillInChunk, Action::AddTableAndKill(place));
        }
    }

    /// Takes the table out of the connector and puts it back, with a kill in the middle of its rows.
    fn remove_table(&mut self) {
        if !self.has_table {
            self.add_table();
        }
        self.has_table = false;
        self.push(Kind::RemoveTable, Action::RemoveTable);
        self.add_table();
    }
}
