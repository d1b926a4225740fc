module github.com/SkyAPM/go2sky

go 1.19
