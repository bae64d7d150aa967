//! An enterprise as it truly is, apart from what any department has written down.

use super::calendar::Day;
use super::codes;
use super::random::{Random, permute};

/// The districts of the sample city 潍坊市 (GB/T 2260), and one outside it.
const REGIONS: [(&str, &str); 13] = [
    ("370702", "潍坊市潍城区"),
    ("370703", "潍坊市寒亭区"),
    ("370704", "潍坊市坊子区"),
    ("370705", "潍坊市奎文区"),
    ("370724", "潍坊市临朐县"),
    ("370725", "潍坊市昌乐县"),
    ("370781", "潍坊市青州市"),
    ("370782", "潍坊市诸城市"),
    ("370783", "潍坊市寿光市"),
    ("370784", "潍坊市安丘市"),
    ("370785", "潍坊市高密市"),
    ("370786", "潍坊市昌邑市"),
    ("370100", "济南市"),
];
const BRANDS: [&str; 24] = [
    "晨光", "华泰", "金鼎", "永盛", "东方", "鸿运", "瑞丰", "海天", "中和", "百川", "德隆", "天元",
    "嘉禾", "远大", "长城", "新宇", "恒通", "万邦", "润泽", "齐鲁", "鲁源", "白浪", "风筝", "北辰",
];
const TRADES: [(&str, &str); 16] = [
    ("食品", "C1411"),
    ("机械", "C3411"),
    ("化工", "C2611"),
    ("纺织", "C1711"),
    ("建材", "C3021"),
    ("贸易", "F5191"),
    ("物流", "G5990"),
    ("软件", "I6510"),
    ("餐饮", "H6210"),
    ("医药", "F5151"),
    ("园林", "E4890"),
    ("印刷", "C2311"),
    ("农业", "A0111"),
    ("渔业", "A0411"),
    ("广告", "L7251"),
    ("汽车", "F5261"),
];
/// ent_type of 工商, registration type of both tax departments, organisation type of 质监, ending.
const FORMS: [(&str, &str, &str, &str); 7] = [
    ("1100", "159", "11", "有限公司"),
    ("1200", "160", "11", "股份有限公司"),
    ("3000", "110", "11", "总公司"),
    ("4500", "171", "12", "厂"),
    ("4530", "172", "12", "合伙企业"),
    ("5000", "330", "11", "（中国）有限公司"),
    ("9100", "120", "90", "农民专业合作社"),
];
const FORM_WEIGHTS: [u32; 7] = [70, 4, 3, 10, 5, 3, 5];
const FAMILY: [&str; 20] = [
    "王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴", "徐", "孙", "胡", "朱", "高", "林",
    "何", "郭", "马", "欧阳",
];
const GIVEN: [&str; 24] = [
    "伟", "芳", "娜", "敏", "静", "丽", "强", "磊", "军", "洋", "勇", "艳", "杰", "娟", "涛", "明",
    "超", "秀英", "晓梅", "建军", "志强", "桂兰", "海燕", "文博",
];
const ROADS: [&str; 10] = [
    "东风东街",
    "胜利西街",
    "健康路",
    "四平路",
    "北海路",
    "民生街",
    "福寿街",
    "新华路",
    "虞河路",
    "玉清街",
];
const CHINESE_DIGITS: [&str; 10] = ["〇", "一", "二", "三", "四", "五", "六", "七", "八", "九"];

/// A person, made up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The name.
    pub name: String,
    /// The citizen's identity number.
    pub id_number: String,
}

impl Person {
    /// Makes one up.
    pub fn random(random: &mut Random) -> Self {
        let mut name = random.pick(&FAMILY).to_owned();
        name.push_str(random.pick(&GIVEN));
        let (region, _) = random.pick(&REGIONS);
        let born = Day(-7000).plus(random.below(18_000));
        let sequence = random.between(1, 999);
        let id_number = codes::citizen_number(&format!("{region}{}{sequence:03}", born.compact()));
        Self { name, id_number }
    }
}

/// A true enterprise, as it is now.
#[derive(Clone, Debug)]
pub struct Enterprise {
    /// Its place in the generator's order, which appears in no department's column.
    pub index: u32,
    /// Its own random stream.
    pub random: Random,
    /// The full name.
    pub name: String,
    form: usize,
    region: usize,
    region_of_codes: usize,
    /// Organisation code, 9 characters.
    pub org_code: String,
    /// Unified social credit code, if the enterprise has converted.
    pub uscc: Option<String>,
    /// Business registration number, 15 digits.
    pub reg_no: String,
    /// Industry: letter and four digits.
    pub industry: &'static str,
    /// The representative.
    pub representative: Person,
    /// Registered capital in units of 1,000 yuan.
    pub capital_thousands: u32,
    /// Day of establishment.
    pub established: Day,
    /// Address.
    pub address: String,
    /// Business scope.
    pub scope: String,
    /// Telephone, which is in no share.
    pub phone: String,
    /// Whether the enterprise is a secret.
    pub is_secret: bool,
    /// Whether it is a branch.
    pub is_branch: bool,
}

impl Enterprise {
    /// Makes up the enterprise of an index.
    #[must_use]
    pub fn generate(seed: u64, index: u32, established: Option<Day>) -> Self {
        let mut random = Random::of(seed, u64::from(index));
        let form = random.weighted(&FORM_WEIGHTS) as usize;
        // One in twenty-five lies outside the city.
        let region = if random.chance(400) {
            12
        } else {
            random.below(12) as usize
        };
        let (trade, industry) = random.pick(&TRADES);
        let body = permute(seed ^ 0x000C_0DE5, 24, index);
        let org_code = codes::organisation_code(&format!("{body:08}"));
        let region_code = REGIONS[region].0;
        let sequence = permute(seed ^ 0x5E9, 24, index);
        let reg_no = codes::registration_number(&format!("{region_code}{sequence:08}"));
        let uscc = random
            .chance(7000)
            .then(|| codes::unified_social_credit_code(&format!("91{region_code}{org_code}")));
        let name = full_name(&mut random, region, trade, form);
        let address = street(&mut random, region);
        Self {
            index,
            representative: Person::random(&mut random),
            capital_thousands: random_capital(&mut random),
            established: established
                .unwrap_or_else(|| Day::START.plus(0).minus(random.between(200, 7000))),
            scope: format!("{trade}的生产、加工与销售；技术咨询服务"),
            phone: format!("0536-{}", random.between(2_000_000, 8_999_999)),
            is_secret: random.chance(200),
            is_branch: random.chance(1000),
            name,
            form,
            region,
            region_of_codes: region,
            org_code,
            uscc,
            reg_no,
            industry,
            address,
            random,
        }
    }

    /// Returns the district's code.
    #[must_use]
    pub fn region(&self) -> &'static str {
        REGIONS[self.region].0
    }

    /// Returns 工商's code for the legal form.
    #[must_use]
    pub fn ent_type(&self) -> &'static str {
        FORMS[self.form].0
    }

    /// Returns the tax departments' code for the legal form.
    #[must_use]
    pub fn reg_type(&self) -> &'static str {
        FORMS[self.form].1
    }

    /// Returns 质监's code for the kind of organisation.
    #[must_use]
    pub fn org_type(&self) -> &'static str {
        if self.is_branch {
            "13"
        } else {
            FORMS[self.form].2
        }
    }

    /// Returns the number by which both tax departments know the enterprise.
    #[must_use]
    pub fn taxpayer_number(&self) -> String {
        format!("{}{}", REGIONS[self.region_of_codes].0, self.org_code)
    }

    /// Returns the organisation code with its dash.
    #[must_use]
    pub fn org_code_dashed(&self) -> String {
        let (body, check) = self.org_code.split_at(8);
        format!("{body}-{check}")
    }

    /// Returns the registered capital in 10,000 yuan, as 工商 and 质监 write it.
    #[must_use]
    pub fn capital(&self) -> String {
        format!(
            "{}.{}000",
            self.capital_thousands / 10,
            self.capital_thousands % 10
        )
    }

    /// Gives the enterprise another name.
    pub fn rename(&mut self) {
        let trade = TRADES
            .iter()
            .find(|(_, industry)| *industry == self.industry);
        let trade = trade.map_or("商贸", |(trade, _)| trade);
        self.name = full_name(&mut self.random, self.region, trade, self.form);
    }

    /// Moves the enterprise within its district.
    pub fn change_address(&mut self) {
        self.address = street(&mut self.random, self.region);
    }

    /// Gives the enterprise another representative.
    pub fn change_representative(&mut self) {
        self.representative = Person::random(&mut self.random);
    }

    /// Changes the registered capital.
    pub fn change_capital(&mut self) {
        self.capital_thousands = random_capital(&mut self.random);
    }

    /// Changes the business scope.
    pub fn change_scope(&mut self) {
        let (trade, _) = self.random.pick(&TRADES);
        self.scope = format!("{trade}的批发与零售；货物进出口");
    }

    /// Moves the enterprise to another district of the city. Its codes keep the old one.
    pub fn move_to_another_district(&mut self) {
        self.region = (self.region % 12 + 1 + self.random.below(11) as usize) % 12;
        self.change_address();
    }
}

impl Day {
    fn minus(self, days: u32) -> Self {
        Self(self.0 - i32::try_from(days).expect("a few thousand days"))
    }
}

fn full_name(random: &mut Random, region: usize, trade: &str, form: usize) -> String {
    let city = if region == 12 { "济南" } else { "潍坊" };
    let (one, two) = (random.pick(&BRANDS), random.pick(&BRANDS));
    format!("{city}{one}{two}{trade}{}", FORMS[form].3)
}

fn street(random: &mut Random, region: usize) -> String {
    let floor = CHINESE_DIGITS[random.between(1, 9) as usize];
    let road = random.pick(&ROADS);
    format!(
        "山东省{}{road}{}号{floor}楼",
        REGIONS[region].1,
        random.between(1, 9999)
    )
}

/// Between 1,000 yuan and 200 million, so that every band of the BAND mask occurs.
fn random_capital(random: &mut Random) -> u32 {
    let magnitude = random.weighted(&[3, 20, 40, 25, 10, 2]);
    let low = 10_u32.pow(magnitude);
    random.between(low, low * 10 - 1)
}
