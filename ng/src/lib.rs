//! rtpengine's control protocol NG: bencode, messages, and a client without IO.
