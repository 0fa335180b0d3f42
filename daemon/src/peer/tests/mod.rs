//! Peers over real sockets and real TLS, with certificates of the cluster's own CA.
