-- A person may promote a version that the gate did not.
ALTER TABLE apex.promotions DROP CONSTRAINT promotions_action_check;
ALTER TABLE apex.promotions ADD CONSTRAINT promotions_action_check
    CHECK (action IN ('promote', 'reject', 'rollback', 'manual', 'force'));
