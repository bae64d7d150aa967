-- 工商: the tables of the department's own system, as its owner creates them.

-- 企业登记信息
CREATE TABLE ent_base (
    pripid bigint NOT NULL,                     -- 主体代码
    reg_no varchar(15) UNIQUE,                  -- 注册号
    uscc char(18) UNIQUE,                       -- 统一社会信用代码
    ent_name varchar(200) NOT NULL,             -- 企业名称
    ent_type char(4) NOT NULL,                  -- 企业类型
    industry char(5),                           -- 行业代码 (GB/T 4754: letter + 4 digits)
    reg_cap numeric(18,4),                      -- 注册资本 (万元)
    reg_cap_cur char(3) NOT NULL DEFAULT 'CNY', -- 币种
    est_date date NOT NULL,                     -- 成立日期
    op_from date,                               -- 经营期限自
    op_to date,                                 -- 经营期限至
    dom varchar(300) NOT NULL,                  -- 住所
    region char(6) NOT NULL,                    -- 行政区划
    reg_org varchar(9) NOT NULL,                -- 登记机关
    op_scope text,                              -- 经营范围
    leg_rep varchar(120) NOT NULL,              -- 法定代表人
    leg_id_type char(2) NOT NULL DEFAULT '10',  -- 证件类型
    leg_id_no varchar(20),                      -- 证件号码
    phone varchar(30),                          -- 联系电话
    reg_state char(1) NOT NULL,                 -- 登记状态
    is_branch boolean NOT NULL,                 -- 是否分支机构
    parent_no varchar(18),                      -- 隶属企业代码
    appr_date date NOT NULL,                    -- 核准日期
    secret_flag smallint NOT NULL DEFAULT 0,    -- 涉密标志
    upd_time timestamptz(3) NOT NULL,           -- 更新时间
    PRIMARY KEY (pripid)
);

-- 变更登记
CREATE TABLE ent_change (
    chg_id bigint NOT NULL,                     -- 变更序号
    pripid bigint NOT NULL REFERENCES ent_base, -- 主体代码
    item char(2) NOT NULL,                      -- 变更事项
    before_val text,                            -- 变更前
    after_val text,                             -- 变更后
    chg_date date NOT NULL,                     -- 变更日期
    upd_time timestamptz(3) NOT NULL,           -- 更新时间
    PRIMARY KEY (chg_id)
);

-- 年检
CREATE TABLE ent_inspect (
    pripid bigint NOT NULL REFERENCES ent_base, -- 主体代码
    year smallint NOT NULL,                     -- 年度
    result char(1) NOT NULL,                    -- 年检结果
    insp_date date,                             -- 年检日期
    assets numeric(18,2),                       -- 资产总额
    revenue numeric(18,2),                      -- 营业收入
    upd_time timestamptz(3) NOT NULL,           -- 更新时间
    PRIMARY KEY (pripid, year)
);

-- 注(吊)销
CREATE TABLE ent_cancel (
    pripid bigint NOT NULL REFERENCES ent_base, -- 主体代码
    kind char(1) NOT NULL,                      -- 注吊销类别
    reason char(2),                             -- 事由
    cancel_date date NOT NULL,                  -- 日期
    doc_no varchar(60),                         -- 文号
    reg_org varchar(9),                         -- 机关
    upd_time timestamptz(3) NOT NULL,           -- 更新时间
    PRIMARY KEY (pripid)
);

-- 出资人
CREATE TABLE ent_investor (
    inv_id bigint NOT NULL,                     -- 出资序号
    pripid bigint NOT NULL REFERENCES ent_base, -- 主体代码
    inv_name varchar(200) NOT NULL,             -- 出资人名称
    inv_type char(1) NOT NULL,                  -- 出资人类型
    id_no varchar(20),                          -- 证件号码
    sub_cap numeric(18,4),                      -- 认缴出资 (万元)
    ratio numeric(7,4),                         -- 出资比例
    upd_time timestamptz(3) NOT NULL,           -- 更新时间
    PRIMARY KEY (inv_id)
);

-- 个体工商户
CREATE TABLE self_emp (
    reg_no varchar(15) NOT NULL,      -- 注册号
    trade_name varchar(200),          -- 字号名称
    op_name varchar(60) NOT NULL,     -- 经营者姓名
    op_id_no varchar(20),             -- 经营者证件号码
    place varchar(300),               -- 经营场所
    op_scope text,                    -- 经营范围
    industry char(5),                 -- 行业代码
    est_date date NOT NULL,           -- 成立日期
    reg_org varchar(9) NOT NULL,      -- 登记机关
    region char(6) NOT NULL,          -- 行政区划
    reg_state char(1) NOT NULL,       -- 登记状态
    upd_time timestamptz(3) NOT NULL, -- 更新时间
    PRIMARY KEY (reg_no)
);
