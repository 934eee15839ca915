"""What tests share: builders of valid things, fakes with the real interfaces, and their own tests."""
