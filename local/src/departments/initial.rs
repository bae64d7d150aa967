//! The rows of each department on the first day.
//!
//! Every enterprise is in some departments and not in others, and has its children there. The
//! numbers of children are chosen so that the tables have, for each true enterprise, as many rows
//! on average as the sample says (`volume` test below).

use super::Department;
use super::calendar::{Day, Moment};
use super::enterprise::{Enterprise, Person};
use super::random::{Random, permute};
use super::row::Row;

/// What each department knows of an enterprise.
#[derive(Clone, Debug)]
pub struct Member {
    /// The enterprise as it truly is.
    pub truth: Enterprise,
    /// 工商: its key and state.
    pub aic: Option<Copy<char>>,
    /// 国税.
    pub stax: Option<Copy<&'static str>>,
    /// 地税.
    pub ltax: Option<Copy<i32>>,
    /// 质监, whose key is the organisation code.
    pub qts: Option<Copy<char>>,
}

/// A department's copy of an enterprise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy<S> {
    /// The local key; 0 in 质监.
    pub key: u32,
    /// The state in the department's own code.
    pub state: S,
}

/// The sample on its first day.
#[derive(Clone, Debug)]
pub struct Population {
    /// The seed that everything follows from.
    pub seed: u64,
    /// All enterprises.
    pub members: Vec<Member>,
    rows: [Vec<Row>; 4],
}

/// Numbers of children, in ten-thousandths for 0, 1, 2, … children.
type Distribution = &'static [u32];
const INVESTORS_LESS_ONE: Distribution = &[3500, 3000, 2000, 1000, 500];
const AIC_CHANGES: Distribution = &[4500, 3500, 1540, 460];
const UP_TO_FIVE: Distribution = &[1, 1, 1, 1, 1, 1];
const STAX_CHANGES: Distribution = &[6000, 2500, 1030, 470];
const LTAX_CHANGES: Distribution = &[6100, 2500, 890, 510];
const QTS_CHANGES: Distribution = &[6800, 2210, 990];
const TAX_KINDS: [&str; 4] = [
    "营业税,企业所得税",
    "营业税,企业所得税,城建税",
    "个人所得税,印花税",
    "企业所得税,房产税",
];

impl Population {
    /// Makes up `size` true enterprises and what the departments know of them.
    #[must_use]
    pub fn generate(seed: u64, size: u32) -> Self {
        let mut population = Self {
            seed,
            members: Vec::new(),
            rows: [const { Vec::new() }; 4],
        };
        for index in 0..size {
            population.add_enterprise(index);
            if index % 2 == 0 {
                population.add_self_employed(index);
            }
        }
        population
    }

    /// Returns a department's rows, parents before children.
    #[must_use]
    pub fn rows(&self, department: Department) -> &[Row] {
        &self.rows[place(department)]
    }

    fn add_enterprise(&mut self, index: u32) {
        let truth = Enterprise::generate(self.seed, index, None);
        let mut random = Random::of(self.seed ^ 0x0121_71A1, u64::from(index));
        // One draw decides whether and how far an enterprise has been closed, so that the
        // departments agree: who is cancelled in one is in the next, as far as it knows it.
        let fate = random.below(10_000);
        let presence = [9800, 6200, 8600, 9500].map(|probability| random.chance(probability));
        let key = |department| local_key(self.seed, department, index);
        let [in_aic, in_stax, in_ltax, in_qts] = presence;
        let mut member = Member {
            aic: in_aic.then(|| Copy {
                key: key(Department::Aic),
                state: aic_state(fate),
            }),
            stax: in_stax.then(|| Copy {
                key: key(Department::Stax),
                state: stax_state(fate),
            }),
            ltax: in_ltax.then(|| Copy {
                key: key(Department::Ltax),
                state: ltax_state(fate),
            }),
            qts: in_qts.then(|| Copy {
                key: 0,
                state: qts_state(fate),
            }),
            truth,
        };
        let mut ids = Ids {
            seed: self.seed,
            next: index << 4,
        };
        let [aic, stax, ltax, qts] = &mut self.rows;
        aic_rows(&mut member, &mut random, &mut ids, aic);
        stax_rows(&mut member, &mut random, &mut ids, stax);
        ltax_rows(&mut member, &mut random, &mut ids, ltax);
        qts_rows(&mut member, &mut random, &mut ids, qts);
        self.members.push(member);
    }

    /// 个体工商户: known to 工商, and most of them to 地税.
    fn add_self_employed(&mut self, index: u32) {
        let mut random = Random::of(self.seed ^ 0x5E1F, u64::from(index));
        let mut truth = Enterprise::generate(self.seed ^ 0x5E1F, index, None);
        let sequence = 60_000_000 + permute(self.seed ^ 0x5E1F, 24, index);
        truth.reg_no =
            super::codes::registration_number(&format!("{}{sequence:08}", truth.region()));
        let closed = random.chance(800);
        let [aic, _, ltax, _] = &mut self.rows;
        aic.push(self_emp(&truth, closed));
        if random.chance(6000) {
            let state = if closed { 4 } else { 1 };
            let key = local_key(self.seed ^ 0x5E1F, Department::Ltax, index) | 1 << 31;
            let row = tax_reg(
                &truth,
                Copy { key, state },
                true,
                Moment::noon(truth.established),
            );
            ltax.push(row);
        }
    }
}

fn place(department: Department) -> usize {
    match department {
        Department::Aic => 0,
        Department::Stax => 1,
        Department::Ltax => 2,
        Department::Qts => 3,
    }
}

/// Returns the key under which a department files an enterprise. Enterprises' keys have the highest
/// of 32 bits clear.
#[must_use]
pub fn local_key(seed: u64, department: Department, index: u32) -> u32 {
    permute(seed ^ (0xDE9 << place(department)), 30, index) + 1
}

/// Keys of rows that are numbered through.
struct Ids {
    seed: u64,
    next: u32,
}

impl Ids {
    fn take(&mut self) -> u32 {
        let id = permute(self.seed ^ 0x1D5, 30, self.next) + 1;
        self.next += 1;
        id
    }

    /// Every table counts for itself: an enterprise has at most 16 children in one.
    fn of_table(&self) -> Self {
        Self { ..*self }
    }
}

fn aic_state(fate: u32) -> char {
    match fate {
        0..1053 => '3',
        1053..1224 => '2',
        _ => '1',
    }
}

fn stax_state(fate: u32) -> &'static str {
    if fate < 968 { "07" } else { "03" }
}

fn ltax_state(fate: u32) -> i32 {
    if fate < 930 { 4 } else { 1 }
}

fn qts_state(fate: u32) -> char {
    if fate < 1053 { '4' } else { '1' }
}

fn aic_rows(member: &mut Member, random: &mut Random, ids: &mut Ids, out: &mut Vec<Row>) {
    let Some(copy) = member.aic else { return };
    let truth = &member.truth;
    let at = Moment::noon(truth.established);
    out.push(ent_base(truth, copy, at));
    let mut investor_ids = ids.of_table();
    for _ in 0..=random.weighted(INVESTORS_LESS_ONE) {
        out.push(ent_investor(
            truth,
            copy.key,
            investor_ids.take(),
            random,
            at,
        ));
    }
    let mut change_ids = ids.of_table();
    for _ in 0..random.weighted(AIC_CHANGES) {
        let before = Person::random(random);
        let values = ["03", &before.name, &truth.representative.name];
        out.push(ent_change(
            copy.key,
            change_ids.take(),
            values,
            at.day.plus(30),
            at,
        ));
    }
    for year in last_years(random.weighted(UP_TO_FIVE)) {
        out.push(
            Row::of("ent_inspect")
                .with("pripid", copy.key)
                .with("year", year)
                .with("result", random.pick(&["1", "1", "1", "2"]))
                .with(
                    "insp_date",
                    format!("{year}-05-{:02}", random.between(1, 28)),
                )
                .with(
                    "assets",
                    format!("{}.00", random.between(10_000, 90_000_000)),
                )
                .with("revenue", format!("{}.50", random.between(0, 90_000_000)))
                .with("upd_time", at.utc()),
        );
    }
    if copy.state != '1' {
        out.push(ent_cancel(
            truth,
            copy,
            Day::START.plus(0),
            Moment::noon(Day::START),
        ));
    }
}

fn stax_rows(member: &mut Member, random: &mut Random, ids: &mut Ids, out: &mut Vec<Row>) {
    let Some(copy) = &mut member.stax else { return };
    let truth = &member.truth;
    let at = Moment::noon(truth.established.plus(20));
    let irregular = random.chance(806);
    let released = random.chance(3000);
    if irregular && !released && copy.state == "03" {
        copy.state = "05";
    }
    out.push(dj_nsrxx(truth, *copy, at));
    let mut change_ids = ids.of_table();
    for _ in 0..random.weighted(STAX_CHANGES) {
        let before = Person::random(random);
        let values = ["003", &before.name, &truth.representative.name];
        out.push(dj_bg(copy.key, change_ids.take(), values, at));
    }
    if random.chance(2420) {
        out.push(rd_ybnsr(copy.key, ids.of_table().take(), at));
    }
    if irregular {
        let released_on = released.then(|| at.day.plus(200).compact());
        out.push(rd_fzc(copy.key, ids.of_table().take(), released_on, at));
    }
    if copy.state == "07" {
        out.push(dj_zx(copy.key, Moment::noon(Day::START)));
    }
    for year in last_years(random.weighted(UP_TO_FIVE)) {
        out.push(
            Row::of("sb_ndhz")
                .with("nsrdzdah", copy.key)
                .with("nd", year)
                .with("yysr", format!("{}.25", random.between(0, 90_000_000)))
                .with("ynse", format!("{}.75", random.between(0, 9_000_000)))
                .with("xgrq", at.local()),
        );
    }
}

fn ltax_rows(member: &mut Member, random: &mut Random, ids: &mut Ids, out: &mut Vec<Row>) {
    let Some(copy) = &mut member.ltax else { return };
    let truth = &member.truth;
    let at = Moment::noon(truth.established.plus(25));
    let suspended = random.chance(1163);
    let resumed = random.chance(5000);
    if copy.state == 1 {
        copy.state = match (suspended && !resumed, member.stax) {
            (true, _) => 2,
            (false, Some(stax)) if stax.state == "05" => 3,
            (false, _) => 1,
        };
    }
    let copy = *copy;
    out.push(tax_reg(truth, copy, false, at));
    let mut change_ids = ids.of_table();
    for _ in 0..random.weighted(LTAX_CHANGES) {
        let before = Person::random(random);
        let values = ["法定代表人", &before.name, &truth.representative.name];
        out.push(tax_reg_change(copy.key, change_ids.take(), values, at));
    }
    if suspended {
        let resumed_on = resumed.then(|| at.day.plus(90));
        out.push(suspension(copy.key, ids.of_table().take(), resumed_on, at));
    }
    if copy.state == 4 {
        out.push(tax_cancel(copy.key, Moment::noon(Day::START)));
    }
    for year in last_years(random.weighted(UP_TO_FIVE)) {
        out.push(
            Row::of("annual_summary")
                .with("reg_id", copy.key)
                .with("year", year)
                .with("biz_tax", format!("{}.10", random.between(0, 5_000_000)))
                .with("cit", format!("{}.20", random.between(0, 5_000_000)))
                .with("pit", format!("{}.30", random.between(0, 500_000)))
                .with("updated_at", at.utc()),
        );
    }
}

fn qts_rows(member: &mut Member, random: &mut Random, ids: &mut Ids, out: &mut Vec<Row>) {
    let Some(copy) = member.qts else { return };
    let truth = &member.truth;
    let at = Moment::noon(truth.established.plus(10));
    out.push(org_code(truth, copy, at));
    let mut change_ids = ids.of_table();
    for _ in 0..random.weighted(QTS_CHANGES) {
        let before = Person::random(random);
        let values = ["法定代表人", &before.name, &truth.representative.name];
        out.push(org_code_change(
            &truth.org_code,
            change_ids.take(),
            values,
            at.day,
        ));
    }
    for year in last_years(random.weighted(UP_TO_FIVE)) {
        out.push(
            Row::of("org_code_check")
                .with("jgdm", truth.org_code.as_str())
                .with("nd", year)
                .with("jcrq", format!("{year}-04-{:02}", random.between(1, 28)))
                .with("jg", "1"),
        );
    }
    if copy.state == '4' {
        out.push(org_code_void(&truth.org_code, Day::START));
    }
    if random.chance(421) {
        let sequence = ids.of_table().take();
        out.push(
            Row::of("prod_licence")
                .with("zsbh", format!("XK{sequence:010}"))
                .with("jgdm", truth.org_code.as_str())
                .with("cpmc", truth.scope.as_str())
                .with("fzrq", at.day)
                .with("yxq", at.day.plus(1826))
                .with("zt", "1"),
        );
    }
}

/// The years up to 2023.
fn last_years(count: u32) -> impl Iterator<Item = u32> {
    2024 - count..2024
}

/// 工商: 企业登记信息.
#[must_use]
pub fn ent_base(truth: &Enterprise, copy: Copy<char>, at: Moment) -> Row {
    Row::of("ent_base")
        .with("pripid", copy.key)
        .with("reg_no", truth.reg_no.as_str())
        .with("uscc", truth.uscc.clone())
        .with("ent_name", truth.name.as_str())
        .with("ent_type", truth.ent_type())
        .with("industry", truth.industry)
        .with("reg_cap", truth.capital())
        .with("est_date", truth.established)
        .with("op_from", truth.established)
        .with("dom", truth.address.as_str())
        .with("region", truth.region())
        .with("reg_org", format!("{}000", truth.region()))
        .with("op_scope", truth.scope.as_str())
        .with("leg_rep", truth.representative.name.as_str())
        .with("leg_id_no", truth.representative.id_number.as_str())
        .with("phone", truth.phone.as_str())
        .with("reg_state", copy.state.to_string())
        .with("is_branch", truth.is_branch)
        .with("appr_date", at.day)
        .with("secret_flag", i32::from(truth.is_secret))
        .with("upd_time", at.utc())
}

/// 工商: 出资人.
pub fn ent_investor(
    truth: &Enterprise,
    pripid: u32,
    id: u32,
    random: &mut Random,
    at: Moment,
) -> Row {
    let person = Person::random(random);
    Row::of("ent_investor")
        .with("inv_id", id)
        .with("pripid", pripid)
        .with("inv_name", person.name)
        .with("inv_type", "1")
        .with("id_no", person.id_number)
        .with("sub_cap", truth.capital())
        .with("ratio", format!("{}.5000", random.between(1, 99)))
        .with("upd_time", at.utc())
}

/// 工商: 变更登记; `values` are item, before, after.
#[must_use]
pub fn ent_change(pripid: u32, id: u32, values: [&str; 3], on: Day, at: Moment) -> Row {
    Row::of("ent_change")
        .with("chg_id", id)
        .with("pripid", pripid)
        .with("item", values[0])
        .with("before_val", values[1])
        .with("after_val", values[2])
        .with("chg_date", on)
        .with("upd_time", at.utc())
}

/// 工商: 注(吊)销.
#[must_use]
pub fn ent_cancel(truth: &Enterprise, copy: Copy<char>, on: Day, at: Moment) -> Row {
    Row::of("ent_cancel")
        .with("pripid", copy.key)
        .with("kind", if copy.state == '2' { "2" } else { "1" })
        .with("reason", if copy.state == '2' { "04" } else { "01" })
        .with("cancel_date", on)
        .with("reg_org", format!("{}000", truth.region()))
        .with("upd_time", at.utc())
}

/// 工商: 个体工商户.
fn self_emp(truth: &Enterprise, closed: bool) -> Row {
    Row::of("self_emp")
        .with("reg_no", truth.reg_no.as_str())
        .with("trade_name", truth.name.as_str())
        .with("op_name", truth.representative.name.as_str())
        .with("op_id_no", truth.representative.id_number.as_str())
        .with("place", truth.address.as_str())
        .with("industry", truth.industry)
        .with("est_date", truth.established)
        .with("reg_org", format!("{}000", truth.region()))
        .with("region", truth.region())
        .with("reg_state", if closed { "3" } else { "1" })
        .with("upd_time", Moment::noon(truth.established).utc())
}

/// 国税: 税务登记.
#[must_use]
pub fn dj_nsrxx(truth: &Enterprise, copy: Copy<&'static str>, at: Moment) -> Row {
    Row::of("dj_nsrxx")
        .with("nsrdzdah", copy.key)
        .with("nsrsbh", truth.taxpayer_number())
        .with("nsrmc", truth.name.as_str())
        .with("shxydm", truth.uscc.clone())
        // One in sixteen was filed without its organisation code.
        .with(
            "zzjg_dm",
            (!copy.key.is_multiple_of(16)).then_some(truth.org_code.as_str()),
        )
        .with("gszch", truth.reg_no.as_str())
        .with("djzclx_dm", truth.reg_type())
        .with(
            "hy_dm",
            truth.industry.trim_start_matches(char::is_alphabetic),
        )
        .with("fddbrmc", truth.representative.name.as_str())
        .with("fddbr_zjlx", "201")
        .with("fddbr_zjhm", truth.representative.id_number.as_str())
        .with("zcdz", truth.address.as_str())
        .with("scjydz", truth.address.as_str())
        .with("dhhm", truth.phone.as_str())
        .with("jyfw", truth.scope.as_str())
        .with("swjg_dm", format!("1{}0000", truth.region()))
        .with("xzqh_dm", truth.region())
        .with("djrq", at.day.compact())
        .with("nsrzt_dm", copy.state)
        .with("xgrq", at.local())
}

/// 国税: 变更登记; `values` are item, before, after.
#[must_use]
pub fn dj_bg(key: u32, id: u32, values: [&str; 3], at: Moment) -> Row {
    Row::of("dj_bg")
        .with("bgxh", id)
        .with("nsrdzdah", key)
        .with("bgxm_dm", values[0])
        .with("bgqnr", values[1])
        .with("bghnr", values[2])
        .with("bgrq", at.day.compact())
        .with("xgrq", at.local())
}

/// 国税: 一般纳税人认定.
#[must_use]
pub fn rd_ybnsr(key: u32, id: u32, at: Moment) -> Row {
    Row::of("rd_ybnsr")
        .with("rdxh", id)
        .with("nsrdzdah", key)
        .with("yxq_q", at.day.compact())
        .with("xgrq", at.local())
}

/// 国税: 非正常户认定.
#[must_use]
pub fn rd_fzc(key: u32, id: u32, released_on: Option<String>, at: Moment) -> Row {
    Row::of("rd_fzc")
        .with("fzcxh", id)
        .with("nsrdzdah", key)
        .with("rdrq", at.day.compact())
        .with("jcrq", released_on)
        .with("yy", "连续三个月未申报")
        .with("xgrq", at.local())
}

/// 国税: 注销登记.
#[must_use]
pub fn dj_zx(key: u32, at: Moment) -> Row {
    Row::of("dj_zx")
        .with("nsrdzdah", key)
        .with("zxrq", at.day.compact())
        .with("zxyy_dm", "01")
        .with("xgrq", at.local())
}

/// 地税: 税务登记.
#[must_use]
pub fn tax_reg(truth: &Enterprise, copy: Copy<i32>, is_self_emp: bool, at: Moment) -> Row {
    let org_code = (!is_self_emp).then(|| truth.org_code_dashed());
    let number = if is_self_emp {
        format!("{}G", truth.reg_no)
    } else {
        truth.taxpayer_number()
    };
    Row::of("tax_reg")
        .with("reg_id", copy.key)
        .with("taxpayer_no", number)
        .with("name", truth.name.as_str())
        .with("org_code", org_code)
        .with("biz_reg_no", truth.reg_no.as_str())
        .with(
            "uscc",
            if is_self_emp {
                None
            } else {
                truth.uscc.clone()
            },
        )
        .with(
            "reg_type",
            if is_self_emp { "410" } else { truth.reg_type() },
        )
        .with("industry", truth.industry)
        .with("leg_name", truth.representative.name.as_str())
        .with("leg_id", truth.representative.id_number.as_str())
        .with("reg_addr", truth.address.as_str())
        .with("op_addr", truth.address.as_str())
        .with("tel", truth.phone.as_str())
        .with("tax_office", format!("2{}0000", truth.region()))
        .with("region", truth.region())
        .with("reg_date", at.day)
        .with("status", copy.state)
        .with("tax_kinds", TAX_KINDS[(copy.key % 4) as usize])
        .with("is_self_emp", is_self_emp)
        .with("updated_at", at.utc())
}

/// 地税: 变更登记; `values` are item, before, after.
#[must_use]
pub fn tax_reg_change(key: u32, id: u32, values: [&str; 3], at: Moment) -> Row {
    Row::of("tax_reg_change")
        .with("id", id)
        .with("reg_id", key)
        .with("item", values[0])
        .with("old_value", values[1])
        .with("new_value", values[2])
        .with("changed_on", at.day)
        .with("updated_at", at.utc())
}

/// 地税: 停业复业.
#[must_use]
pub fn suspension(key: u32, id: u32, resumed_on: Option<Day>, at: Moment) -> Row {
    Row::of("suspension")
        .with("id", id)
        .with("reg_id", key)
        .with("from_date", at.day)
        .with("to_date", at.day.plus(180))
        .with("resumed_on", resumed_on)
        .with("updated_at", at.utc())
}

/// 地税: 注销登记.
#[must_use]
pub fn tax_cancel(key: u32, at: Moment) -> Row {
    Row::of("tax_cancel")
        .with("reg_id", key)
        .with("cancel_date", at.day)
        .with("reason", "决议解散")
        .with("updated_at", at.utc())
}

/// 质监: 组织机构代码.
#[must_use]
pub fn org_code(truth: &Enterprise, copy: Copy<char>, at: Moment) -> Row {
    Row::of("org_code")
        .with("jgdm", truth.org_code.as_str())
        .with("jgmc", truth.name.as_str())
        .with("jglx", truth.org_type())
        .with("fddbr", truth.representative.name.as_str())
        .with("zjhm", truth.representative.id_number.as_str())
        .with("jgdz", truth.address.as_str())
        .with("xzqh", truth.region())
        .with("jjhy", truth.industry)
        .with("pzwh", truth.reg_no.as_str())
        .with("zczj", truth.capital())
        .with("dhhm", truth.phone.as_str())
        .with("bzrq", at.day)
        .with("yxq", at.day.plus(1461))
        .with("bzjg", truth.region())
        .with("zt", copy.state.to_string())
        .with("shxydm", truth.uscc.clone())
        .with("gxsj", at.local())
}

/// 质监: 变更; `values` are item, before, after.
#[must_use]
pub fn org_code_change(code: &str, id: u32, values: [&str; 3], on: Day) -> Row {
    Row::of("org_code_change")
        .with("id", id)
        .with("jgdm", code)
        .with("bgx", values[0])
        .with("bgq", values[1])
        .with("bgh", values[2])
        .with("bgrq", on)
}

/// 质监: 注销或废置.
#[must_use]
pub fn org_code_void(code: &str, on: Day) -> Row {
    Row::of("org_code_void")
        .with("jgdm", code)
        .with("kind", "1")
        .with("rq", on)
        .with("yy", "注销")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Rows per true enterprise, as the sample has them.
    const VOLUME: [(&str, f64); 22] = [
        ("ent_base", 0.98),
        ("ent_investor", 2.16),
        ("ent_change", 0.78),
        ("ent_inspect", 2.45),
        ("ent_cancel", 0.12),
        ("self_emp", 0.50),
        ("dj_nsrxx", 0.62),
        ("dj_bg", 0.37),
        ("rd_ybnsr", 0.15),
        ("rd_fzc", 0.05),
        ("dj_zx", 0.06),
        ("sb_ndhz", 1.55),
        ("tax_reg", 1.16),
        ("tax_reg_change", 0.50),
        ("suspension", 0.10),
        ("tax_cancel", 0.08),
        ("annual_summary", 2.15),
        ("org_code", 0.95),
        ("org_code_change", 0.40),
        ("org_code_check", 2.40),
        ("org_code_void", 0.10),
        ("prod_licence", 0.04),
    ];

    #[test]
    fn tables_have_the_volume_of_the_sample_within_three_percent() {
        const SIZE: u32 = 50_000;
        let population = Population::generate(1, SIZE);
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for department in Department::ALL {
            for row in population.rows(department) {
                *counts.entry(row.table).or_default() += 1;
            }
        }
        for (table, wanted) in VOLUME {
            let per_enterprise = f64::from(counts[table]) / f64::from(SIZE);
            // The sample rounds to hundredths, which is more than three percent of small tables.
            let tolerance = (wanted * 0.03).max(0.005);
            assert!(
                (per_enterprise - wanted).abs() <= tolerance,
                "{table}: {per_enterprise} rows for each enterprise instead of {wanted}"
            );
        }
    }

    #[test]
    fn a_larger_sample_keeps_the_first_enterprises() {
        let small = Population::generate(7, 50);
        let large = Population::generate(7, 60);
        for department in Department::ALL {
            let first = small.rows(department);
            assert_eq!(first, &large.rows(department)[..first.len()]);
        }
    }

    #[test]
    fn no_department_holds_an_order_that_tells_the_generators() {
        let population = Population::generate(1, 200);
        let keys: Vec<u32> = population
            .members
            .iter()
            .filter_map(|m| Some(m.aic?.key))
            .collect();
        let rising = keys.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!(
            (60..140).contains(&rising),
            "{rising} of {} steps rise",
            keys.len()
        );
    }
}
