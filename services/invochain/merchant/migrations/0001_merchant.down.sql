DROP TABLE sign_in_attempt;
DROP TABLE refresh_family;
DROP TABLE app_user;
DROP TABLE merchant;
