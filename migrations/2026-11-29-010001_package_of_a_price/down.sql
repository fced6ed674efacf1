ALTER TABLE prices DROP COLUMN transform_divide_by;
