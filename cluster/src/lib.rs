//! What nodes say to each other: protocols, channels, secret tokens, lane codecs, settings that travel
