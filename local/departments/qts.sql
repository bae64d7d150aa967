-- 质监: the tables of the department's own system, as its owner creates them.

-- 组织机构代码
CREATE TABLE org_code (
    jgdm char(9) NOT NULL,      -- 机构代码
    jgmc varchar(300) NOT NULL, -- 机构名称
    jglx char(2) NOT NULL,      -- 机构类型
    fddbr varchar(120),         -- 法定代表人
    zjhm varchar(30),           -- 证件号码
    jgdz varchar(300),          -- 机构地址
    xzqh char(6) NOT NULL,      -- 行政区划
    jjhy char(5),               -- 经济行业
    pzwh varchar(60),           -- 批准文号或注册号
    zgdm char(9),               -- 主管部门代码
    zczj numeric(18,4),         -- 注册资金 (万元)
    dhhm varchar(30),           -- 电话号码
    bzrq date NOT NULL,         -- 颁证日期
    yxq date NOT NULL,          -- 有效期至
    bzjg char(6) NOT NULL,      -- 颁证单位
    zt char(1) NOT NULL,        -- 状态
    shxydm char(18),            -- 社会信用代码
    gxsj timestamp(0) NOT NULL, -- 更新时间 (local time)
    PRIMARY KEY (jgdm)
);

-- 变更
CREATE TABLE org_code_change (
    id bigint NOT NULL,                        -- 序号
    jgdm char(9) NOT NULL REFERENCES org_code, -- 机构代码
    bgx varchar(30) NOT NULL,                  -- 变更项
    bgq varchar(500),                          -- 变更前
    bgh varchar(500),                          -- 变更后
    bgrq date NOT NULL,                        -- 变更日期
    PRIMARY KEY (id)
);

-- 年检
CREATE TABLE org_code_check (
    jgdm char(9) NOT NULL REFERENCES org_code, -- 机构代码
    nd smallint NOT NULL,                      -- 年度
    jcrq date NOT NULL,                        -- 检查日期
    jg char(1) NOT NULL,                       -- 结果
    PRIMARY KEY (jgdm, nd)
);

-- 注销或废置
CREATE TABLE org_code_void (
    jgdm char(9) NOT NULL REFERENCES org_code, -- 机构代码
    kind char(1) NOT NULL,                     -- 类别
    rq date NOT NULL,                          -- 日期
    yy varchar(200),                           -- 原因
    PRIMARY KEY (jgdm)
);

-- 生产许可证
CREATE TABLE prod_licence (
    zsbh varchar(20) NOT NULL,                 -- 证书编号
    jgdm char(9) NOT NULL REFERENCES org_code, -- 机构代码
    cpmc varchar(200) NOT NULL,                -- 产品名称
    fzrq date NOT NULL,                        -- 发证日期
    yxq date NOT NULL,                         -- 有效期至
    zt char(1) NOT NULL,                       -- 状态
    PRIMARY KEY (zsbh)
);
