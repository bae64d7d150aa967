INSERT INTO aic.ent_inspect VALUES (1,2018,'1',null,null,null,'2019-05-20 08:00:00+08'),(2,2018,'1',null,null,null,'2019-05-20 08:00:00+08'),(3,2018,'2','2019-03-01',0,-1.5,'2019-05-20 08:00:00+08');
INSERT INTO samples.reversed_key VALUES (7,'y',null);
