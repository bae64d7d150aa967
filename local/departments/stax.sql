-- 国税: the tables of the department's own system, as its owner creates them.

-- 税务登记
CREATE TABLE dj_nsrxx (
    nsrdzdah bigint NOT NULL,           -- 纳税人电子档案号
    nsrsbh varchar(20) NOT NULL UNIQUE, -- 纳税人识别号
    nsrmc varchar(300) NOT NULL,        -- 纳税人名称
    shxydm char(18),                    -- 社会信用代码
    zzjg_dm char(9),                    -- 组织机构代码 (no dash)
    gszch varchar(18),                  -- 工商注册号 (as declared)
    djzclx_dm char(3) NOT NULL,         -- 登记注册类型
    hy_dm char(4),                      -- 行业代码 (no letter)
    fddbrmc varchar(150),               -- 法定代表人名称
    fddbr_zjlx char(3),                 -- 法定代表人证件类型
    fddbr_zjhm varchar(30),             -- 法定代表人证件号码
    zcdz varchar(300),                  -- 注册地址
    scjydz varchar(300),                -- 生产经营地址
    dhhm varchar(50),                   -- 电话号码
    jyfw varchar(2000),                 -- 经营范围
    swjg_dm char(11) NOT NULL,          -- 主管税务机关
    xzqh_dm char(6) NOT NULL,           -- 行政区划
    djrq char(8) NOT NULL,              -- 登记日期 (YYYYMMDD)
    nsrzt_dm char(2) NOT NULL,          -- 纳税人状态
    xgrq timestamp(0) NOT NULL,         -- 修改日期 (local time, UTC+8)
    PRIMARY KEY (nsrdzdah)
);

-- 变更登记
CREATE TABLE dj_bg (
    bgxh bigint NOT NULL,                         -- 变更序号
    nsrdzdah bigint NOT NULL REFERENCES dj_nsrxx, -- 纳税人电子档案号
    bgxm_dm char(3) NOT NULL,                     -- 变更项目
    bgqnr varchar(2000),                          -- 变更前内容
    bghnr varchar(2000),                          -- 变更后内容
    bgrq char(8) NOT NULL,                        -- 变更日期
    xgrq timestamp(0) NOT NULL,                   -- 修改日期
    PRIMARY KEY (bgxh)
);

-- 一般纳税人认定
CREATE TABLE rd_ybnsr (
    rdxh bigint NOT NULL,                         -- 认定序号
    nsrdzdah bigint NOT NULL REFERENCES dj_nsrxx, -- 纳税人电子档案号
    yxq_q char(8) NOT NULL,                       -- 有效期起
    yxq_z char(8),                                -- 有效期止
    xgrq timestamp(0) NOT NULL,                   -- 修改日期
    PRIMARY KEY (rdxh)
);

-- 非正常户认定
CREATE TABLE rd_fzc (
    fzcxh bigint NOT NULL,                        -- 认定序号
    nsrdzdah bigint NOT NULL REFERENCES dj_nsrxx, -- 纳税人电子档案号
    rdrq char(8) NOT NULL,                        -- 认定日期
    jcrq char(8),                                 -- 解除日期
    yy varchar(500),                              -- 原因
    xgrq timestamp(0) NOT NULL,                   -- 修改日期
    PRIMARY KEY (fzcxh)
);

-- 注销登记
CREATE TABLE dj_zx (
    nsrdzdah bigint NOT NULL REFERENCES dj_nsrxx, -- 纳税人电子档案号
    zxrq char(8) NOT NULL,                        -- 注销日期
    zxyy_dm char(2),                              -- 注销原因
    xgrq timestamp(0) NOT NULL,                   -- 修改日期
    PRIMARY KEY (nsrdzdah)
);

-- 年度申报汇总 (never leaves the department)
CREATE TABLE sb_ndhz (
    nsrdzdah bigint NOT NULL REFERENCES dj_nsrxx, -- 纳税人电子档案号
    nd smallint NOT NULL,                         -- 年度
    yysr numeric(18,2),                           -- 营业收入
    ynse numeric(18,2),                           -- 应纳税额
    xgrq timestamp(0) NOT NULL,                   -- 修改日期
    PRIMARY KEY (nsrdzdah, nd)
);
