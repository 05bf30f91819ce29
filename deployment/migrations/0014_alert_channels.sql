-- A channel of alerts is a module of apex_ml/adapters/alerts: their names are no longer listed in the database.

ALTER TABLE apex.alert_deliveries DROP CONSTRAINT IF EXISTS alert_deliveries_channel_check;
