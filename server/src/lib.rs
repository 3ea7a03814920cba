//! The doors: Flight SQL, HTTP, authentication
