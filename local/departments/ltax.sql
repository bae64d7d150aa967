-- 地税: the tables of the department's own system, as its owner creates them.

-- 税务登记
CREATE TABLE tax_reg (
    reg_id bigint NOT NULL,                  -- 登记序号 (auto-increment)
    taxpayer_no varchar(20) NOT NULL UNIQUE, -- 纳税人识别号
    name varchar(300) NOT NULL,              -- 纳税人名称
    org_code varchar(10),                    -- 组织机构代码 (with dash)
    biz_reg_no varchar(20),                  -- 工商注册号
    uscc varchar(18),                        -- 社会信用代码
    reg_type char(3) NOT NULL,               -- 登记注册类型
    industry varchar(6),                     -- 行业代码
    leg_name varchar(150),                   -- 法定代表人
    leg_id varchar(30),                      -- 法定代表人证件号码
    reg_addr varchar(300),                   -- 注册地址
    op_addr varchar(300),                    -- 生产经营地址
    tel varchar(50),                         -- 电话
    tax_office varchar(11) NOT NULL,         -- 主管税务机关
    region char(6) NOT NULL,                 -- 行政区划
    reg_date date NOT NULL,                  -- 登记日期
    status smallint NOT NULL,                -- 状态
    tax_kinds varchar(200),                  -- 税种 (comma list)
    is_self_emp boolean NOT NULL,            -- 是否个体
    updated_at timestamptz(3) NOT NULL,      -- 更新时间
    PRIMARY KEY (reg_id)
);

-- 变更登记
CREATE TABLE tax_reg_change (
    id bigint NOT NULL,                        -- 序号
    reg_id bigint NOT NULL REFERENCES tax_reg, -- 登记序号
    item varchar(30) NOT NULL,                 -- 变更项目
    old_value text,                            -- 变更前
    new_value text,                            -- 变更后
    changed_on date NOT NULL,                  -- 变更日期
    updated_at timestamptz(3) NOT NULL,        -- 更新时间
    PRIMARY KEY (id)
);

-- 停业复业
CREATE TABLE suspension (
    id bigint NOT NULL,                        -- 序号
    reg_id bigint NOT NULL REFERENCES tax_reg, -- 登记序号
    from_date date NOT NULL,                   -- 停业日期
    to_date date NOT NULL,                     -- 预计复业日期
    resumed_on date,                           -- 实际复业日期
    updated_at timestamptz(3) NOT NULL,        -- 更新时间
    PRIMARY KEY (id)
);

-- 注销登记
CREATE TABLE tax_cancel (
    reg_id bigint NOT NULL REFERENCES tax_reg, -- 登记序号
    cancel_date date NOT NULL,                 -- 注销日期
    reason varchar(100),                       -- 注销原因
    updated_at timestamptz(3) NOT NULL,        -- 更新时间
    PRIMARY KEY (reg_id)
);

-- 年度汇总
CREATE TABLE annual_summary (
    reg_id bigint NOT NULL REFERENCES tax_reg, -- 登记序号
    year smallint NOT NULL,                    -- 年度
    biz_tax numeric(18,2),                     -- 营业税
    cit numeric(18,2),                         -- 企业所得税
    pit numeric(18,2),                         -- 个人所得税
    updated_at timestamptz(3) NOT NULL,        -- 更新时间
    PRIMARY KEY (reg_id, year)
);
