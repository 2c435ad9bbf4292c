DROP TABLE movement;
DROP TABLE reservation;
DROP TABLE stock;
